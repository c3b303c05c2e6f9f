"""Networks that are broken on purpose, each in one way, which is named first; and healthy ones, of which none is."""

import copy
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from labml_bn import BatchNorm, estimate_population
from labml_bn.data.mnist import ImageSet, load
from labml_bn.norm import diagnose
from labml_bn.norm.diagnosis import Diagnosis, Finding

Batches = list[tuple[Tensor, Tensor]]
LAYERS = [BatchNorm, nn.BatchNorm2d]


@pytest.fixture(scope="module")
def images(data_path: Any) -> ImageSet:
    return load("MNIST", data_path, "train", samples=6000, device=torch.device("cpu"), dtype=torch.float32)


@pytest.fixture(scope="module")
def test_images(data_path: Any) -> Batches:
    test = load("MNIST", data_path, "test", samples=1000, device=torch.device("cpu"), dtype=torch.float32)
    return list(test.batches(250))


def network(layer: Any = BatchNorm, seed: int = 0, **options: Any) -> Any:
    torch.manual_seed(seed)
    two, one = (layer, layer) if layer is BatchNorm else (nn.BatchNorm2d, nn.BatchNorm1d)
    return nn.Sequential(
        *(nn.Conv2d(1, 8, 5, 2), two(8, **options), nn.ReLU(), nn.Conv2d(8, 16, 3, 2), two(16, **options), nn.ReLU()),
        *(nn.Flatten(), nn.Linear(400, 32), one(32, **options), nn.ReLU(), nn.Linear(32, 10)),
    )


def train(model: Any, batches: Batches, steps: int = 150, rate: float = 1e-3) -> Any:
    optimizer = torch.optim.Adam(model.parameters(), rate)
    model.train()
    for step in range(steps):
        x, target = batches[step % len(batches)]
        optimizer.zero_grad()
        F.cross_entropy(model(x), target).backward()
        optimizer.step()
    return model


def shuffled(images: ImageSet, size: int = 64, epoch: int = 0) -> Batches:
    return [batch for batch in images.shuffled(size, seed=0, epoch=epoch) if len(batch[1]) == size]


def diagnosed(model: nn.Module, images: ImageSet, evaluation: Batches, size: int = 64) -> Diagnosis:
    """On batches in another order than those that it was trained on."""
    return diagnose(model, shuffled(images, size, epoch=9)[:60], evaluation=evaluation, loss=F.cross_entropy)


def first(diagnosis: Diagnosis, cause: str, layers: tuple[str, ...] = ("1", "4", "8")) -> Finding:
    """The first finding, which is this one, and no other with it unless it follows from it."""
    assert diagnosis.findings, diagnosis
    assert not diagnosis.healthy
    found = diagnosis.findings[0]
    assert (found.cause, found.layers) == (cause, layers), diagnosis
    return found


@pytest.fixture(scope="module")
def good(images: ImageSet) -> Any:
    """Tests break copies of it."""
    return train(network(), shuffled(images))


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("rate", [1e-3, 1e-2])
def test_healthy(images: ImageSet, test_images: Batches, layer: Any, seed: int, rate: float) -> None:
    model = train(network(layer, seed), shuffled(images, epoch=seed), rate=rate)
    diagnosis = diagnosed(model, images, test_images)
    assert diagnosis.healthy, diagnosis
    assert diagnosed(model.eval(), images, test_images).healthy
    assert diagnose(model, [x for x, _ in shuffled(images)[:5]]).healthy
    assert diagnosis.outcome.running < 1.3 * diagnosis.outcome.population


@pytest.mark.parametrize("order", ["after the ReLU", "with dropout", "batches of 16"])
def test_other_healthy_networks(images: ImageSet, test_images: Batches, order: str) -> None:
    torch.manual_seed(0)
    model = network(nn.BatchNorm2d)
    if order == "after the ReLU":
        model[1], model[2], model[4], model[5] = model[2], model[1], model[5], model[4]
    if order == "with dropout":
        model.insert(10, nn.Dropout(0.5))
    size = 16 if order == "batches of 16" else 64
    diagnosis = diagnosed(train(model, shuffled(images, size), 300), images, test_images, size)
    assert diagnosis.healthy, diagnosis


def test_healthy_after_an_estimate(images: ImageSet, test_images: Batches) -> None:
    """Though its momentum and its updates say that the statistics cannot have arrived."""
    model = train(network(momentum=1e-3), shuffled(images), 100)
    estimate_population(model, [x for x, _ in shuffled(images)])
    assert diagnosed(model, images, test_images).healthy


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize(("momentum", "steps", "recommended"), [(0.01, 100, 0.1), (0.1, 12, 0.28), (0.001, 20, 0.18)])
def test_lagging(
    images: ImageSet, test_images: Batches, layer: Any, momentum: float, steps: int, recommended: float
) -> None:
    """The remedies work: with either, the network is healthy."""
    model = train(network(layer, momentum=momentum), shuffled(images), steps)
    diagnosis = diagnosed(model, images, test_images)
    found = diagnosis.findings[0]
    assert found.cause == "lagging", diagnosis
    assert "4" in found.layers
    assert found.numbers["recommended"] == recommended
    assert found.numbers["initial_weight"] == pytest.approx((1 - momentum) ** steps)
    assert f"after {steps} updates with momentum {momentum}" in found.explanation
    assert f"estimate_population(model, batches), or train with momentum={recommended}" in found.remedy
    assert len(diagnosis.findings) == 1
    again = train(network(layer, momentum=recommended), shuffled(images), steps)
    assert not [f for f in diagnosed(again, images, test_images).findings if f.cause == "lagging"]
    estimate_population(model, [x for x, _ in shuffled(images)])
    assert diagnosed(model, images, test_images).healthy


def test_small_inputs_lag_for_longer(images: ImageSet) -> None:
    """Of a variance near 0, what little is left of the initial 1 is a multiple. A higher momentum is not the remedy."""
    layer = nn.BatchNorm2d(1)
    batches = [x * 0.01 for x, _ in shuffled(images)[:70]]
    for x in batches:
        layer(x)
    (found,) = diagnose(layer, batches).findings
    assert found.cause == "lagging"
    assert found.numbers["initial_weight"] < 1e-3
    assert found.numbers["var"] > 3
    assert "momentum=" not in found.remedy


@pytest.mark.parametrize("layer", LAYERS)
def test_never_updated(good: Any, images: ImageSet, test_images: Batches, layer: Any) -> None:
    found = first(diagnosed(network(layer), images, test_images), "never_updated")
    assert found.numbers["updates"] == 0
    broken = train(network(layer), shuffled(images))
    broken[4].reset_running_stats()
    diagnosis = diagnosed(broken, images, test_images)
    found = first(diagnosis, "never_updated", ("4",))
    assert len(diagnosis.findings) == 1
    assert diagnosis.layers[1].effect < -0.5  # this layer alone makes the loss so much higher
    assert abs(diagnosis.layers[0].effect) < 0.05
    assert "never updated" in found.explanation


def test_updated_once(images: ImageSet, test_images: Batches) -> None:
    found = first(diagnosed(train(network(), shuffled(images), 1), images, test_images), "updated_once")
    assert found.numbers["initial_weight"] == 0.9


@pytest.mark.parametrize("training", [True, False])
def test_mixed_modes(good: Any, images: ImageSet, test_images: Batches, training: bool) -> None:
    broken = copy.deepcopy(good).train(training)
    broken[4].train(not training)
    diagnosis = diagnosed(broken, images, test_images)
    found = first(diagnosis, "mixed_modes", ("4",))
    assert len(diagnosis.findings) == 1
    assert f"model.{'train' if training else 'eval'}()" in found.remedy
    if training:
        broken[4].frozen = True  # on purpose
        assert diagnosed(broken, images, test_images).healthy


def test_small_batches(images: ImageSet, test_images: Batches) -> None:
    """In batches of the size that is recommended, it is not found any more."""
    model = train(network(nn.BatchNorm2d), shuffled(images, 4), 200)
    found = first(diagnosed(model, images, test_images, size=4), "small_batches", ("8",))
    assert found.numbers["batch_size"] == 4
    needed = int(found.numbers["batch_size_needed"])
    assert 8 <= needed <= 16
    assert f"batches of at least {needed}" in found.remedy
    assert "small_batches" not in [f.cause for f in diagnosed(model, images, test_images, size=needed + 1).findings]
    assert "small_batches" in [f.cause for f in diagnosed(model, images, test_images, size=needed - 2).findings]


def test_small_ghost_batches(images: ImageSet, test_images: Batches) -> None:
    """The batches are large enough, but not what is normalized together. With the size that is recommended, it is."""
    model = train(network(ghost_batch_size=4), shuffled(images), 200)
    found = first(diagnosed(model, images, test_images), "small_batches", ("8",))
    assert found.numbers["batch_size"] == 4
    needed = int(found.numbers["batch_size_needed"])
    assert f"ghost_batch_size={needed}" in found.remedy
    model = train(network(ghost_batch_size=64 // (64 // needed)), shuffled(images), 200)
    assert "small_batches" not in [finding.cause for finding in diagnosed(model, images, test_images).findings]


def test_sorted_batches(images: ImageSet, test_images: Batches) -> None:
    """Each has images of one class."""
    order = images.labels.argsort(stable=True).split(64)
    batches = [images.batch(order[i]) for i in torch.randperm(len(order), generator=torch.Generator().manual_seed(0))]
    model = train(network(), batches)
    found = first(diagnose(model, batches, evaluation=test_images, loss=F.cross_entropy), "sorted_batches", ("8",))
    assert "shuffle" in found.remedy


def test_noisy_average(images: ImageSet, test_images: Batches) -> None:
    """A momentum as other libraries mean it. With the one that is recommended, it is not found any more."""
    model = train(network(momentum=0.99), shuffled(images, 12), 200)
    found = first(diagnosed(model, images, test_images, size=12), "noisy_average", ("8",))
    assert 0.01 < found.numbers["recommended"] < 0.5
    again = train(network(momentum=found.numbers["recommended"]), shuffled(images, 12), 200)
    assert diagnosed(again, images, test_images, size=12).healthy


def test_outdated(good: Any, images: ImageSet, test_images: Batches) -> None:
    """Weights that were changed after the training; a plain average that began with the early weights."""
    broken = copy.deepcopy(good)
    with torch.no_grad():
        broken[3].weight.mul_(2)
    diagnosis = diagnosed(broken, images, test_images)
    first(diagnosis, "outdated", ("4",))
    assert len(diagnosis.findings) == 1
    estimate_population(broken, [x for x, _ in shuffled(images)])
    assert diagnosed(broken, images, test_images).healthy
    average = train(network(momentum=None), shuffled(images), 200)
    found = diagnosed(average, images, test_images).findings[0]
    assert found.cause == "outdated"
    assert "momentum=0.1" in found.remedy


@pytest.mark.parametrize("prepare", [lambda x: x * 0.3081 + 0.1307, lambda x: x * 0.5, lambda x: x + 1, lambda x: -x])
def test_shifted_data(good: Any, images: ImageSet, test_images: Batches, prepare: Callable[[Tensor], Tensor]) -> None:
    """Images that are not normalized, darker, brighter or negatives. The remedy for another domain is one."""
    evaluation = [(prepare(x), target) for x, target in test_images]
    (found,) = diagnosed(good, images, evaluation).findings
    assert found.cause == "shifted_data"
    assert found.layers[-2:] == ("4", "8")
    assert f"at layer '{found.layers[0]}', the first that shows it" in found.explanation
    assert diagnosed(good, images, [(x[:20], target[:20]) for x, target in test_images[:1]]).healthy
    adapted = copy.deepcopy(good)
    estimate_population(adapted, evaluation)
    assert diagnose(adapted, evaluation).healthy


def test_dead_channels(good: Any, images: ImageSet, test_images: Batches) -> None:
    broken = copy.deepcopy(good)
    with torch.no_grad():
        broken[3].weight[2] = 0
    found = first(diagnosed(broken, images, test_images), "dead_channels", ("4",))
    assert found.numbers == {"dead": 1, "channels": 16}
    estimate_population(broken, [x for x, _ in shuffled(images)])
    (found,) = diagnosed(broken, images, test_images).findings
    assert found.cause == "dead_channels"


def test_vanishing_variance(good: Any, images: ImageSet, test_images: Batches) -> None:
    broken = copy.deepcopy(good)
    with torch.no_grad():
        broken[3].weight[2] *= 1e-4
    estimate_population(broken, [x for x, _ in shuffled(images)])
    diagnosis = diagnosed(broken, images, test_images)
    (found,) = diagnosis.findings
    assert (found.cause, found.layers) == ("vanishing_variance", ("4",))
    assert "Evaluation is as training is, but channels are lost:" in str(diagnosis)
    assert found.numbers == {"vanishing": 1, "channels": 16}


@pytest.mark.parametrize(
    ("name", "value", "remedy"),
    [
        ("running_mean", math.nan, "estimate_population"),
        ("running_var", math.inf, "estimate_population"),
        ("running_var", -1.0, "estimate_population"),
        ("weight", math.nan, "checkpoint"),
        ("bias", math.inf, "checkpoint"),
    ],
)
def test_non_finite(good: Any, images: ImageSet, test_images: Batches, name: str, value: float, remedy: str) -> None:
    broken = copy.deepcopy(good)
    with torch.no_grad():
        getattr(broken[4], name)[3] = value
    diagnosis = diagnosed(broken, images, test_images)
    found = first(diagnosis, "non_finite", ("4",))
    assert f"{name} of layer '4'" in found.explanation
    assert remedy in found.remedy
    assert len(diagnosis.findings) == 1


def test_non_finite_inputs(good: Any, images: ImageSet) -> None:
    x, target = shuffled(images)[0]
    x = x.clone()
    x[3] = math.nan
    found = first(diagnose(good, [(x, target)], loss=F.cross_entropy), "non_finite")
    assert "look for the first such value in the data" in found.remedy


class Shared(nn.Module):
    """A network that normalizes at two places with one layer."""

    def __init__(self, *, different: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.one, self.other, self.last = nn.Linear(784, 50), nn.Linear(784, 50), nn.Linear(100, 10)
        self.norm = nn.BatchNorm1d(50)
        self.different = different

    def forward(self, x: Tensor) -> Tensor:
        x = x.flatten(1)
        other = x * 3 + 1 if self.different else x
        y: Tensor = self.last(torch.cat([self.norm(self.one(x)), self.norm(self.other(other))], dim=1).relu())
        return y


@pytest.mark.parametrize("different", [True, False])
def test_repeated_calls(images: ImageSet, test_images: Batches, different: bool) -> None:
    """Harmless if the inputs at both places are alike."""
    model = train(Shared(different=different), shuffled(images))
    if not different:
        model.other.load_state_dict(model.one.state_dict())
        estimate_population(model, [x for x, _ in shuffled(images)], estimator="batches")
    diagnosis = diagnosed(model, images, test_images)
    assert diagnosis.layers[0].calls == 2
    if not different:
        assert diagnosis.healthy, diagnosis
        return
    found = first(diagnosis, "repeated_calls", ("norm",))
    assert found.numbers["calls"] == 2
    assert diagnosis.outcome.running > 1.05 * diagnosis.outcome.batch
