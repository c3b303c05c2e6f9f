"""Claim 2: normalizing outside the gradient fails.

Source: Ioffe & Szegedy 2015, §2. A layer x = u + b is normalized with the mean over the training set, x̂ = x − E[x], and
gradient descent takes E[x] for a constant. The update of b then leaves x̂ as it was, "b will grow indefinitely while the
loss remains fixed", and it "can get worse if the normalization not only centers but also scales".

Measured: on a small training set, all of which is one batch. (a) Only b is trained: how far it goes, and what that
changes in x̂ and in the loss. As nothing changes, every update must be the first one again. (b) The same with the
variance, x = a·u and x̂ = (x − E[x]) / √Var[x]: x̂ is the same for every a > 0, and the gradient of a is h/a with a
constant h, so that a² must grow in a straight line. Only the units with h < 0 are trained: the a of the others would
reach 0, where the gradient is infinite. (c) Everything is trained, at several rates: the lowest loss.

Refuted if: b or a² moves by 2 % less or more than that, x̂ or the loss changes by more than rounding, the same
parameters move with batch normalization, or the network trained in (c) has not at least a tenth more loss than that
with batch normalization, each at its best rate.
"""

from collections.abc import Callable

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from experiments import laboratory
from experiments.laboratory import Criterion, Experiment, Found, Measured, Trial, above, below, curve, panels, within
from experiments.machinery.command import main
from labml_bn import BatchNorm

#: What is more than rounding: numbers of about 1 in float64, after sums and differences with values up to 1e4.
ROUNDING = 1e-9

#: What makes of values [n, units] normalized ones.
Norm = Callable[[Tensor], Tensor]


def outside(x: Tensor) -> Tensor:
    """Values [n, units] with mean 0 and variance 1, normalized by what the gradient takes for constants."""
    return (x - x.detach().mean(0)) / x.detach().std(0, correction=0)


def centred_outside(x: Tensor) -> Tensor:
    """Values [n, units] with mean 0, of which the gradient takes the mean for a constant."""
    return x - x.detach().mean(0)


def measure(
    trial: Trial,
    *,
    images: int,
    units: int,
    steps: int,
    rates: list[float],
    centre: Norm = centred_outside,
    normalize: Norm = outside,
) -> Measured:
    """How far b and a go and what that changes; the losses of networks in which everything is trained."""
    pixels, labels = laboratory.images("train", 60000).batch(torch.randperm(60000)[:images])
    pixels = pixels.flatten(1).double()
    u = pixels @ torch.randn(784, units).double() / 28  # what W makes of the images
    head = nn.Linear(units, 10).double().requires_grad_(False)
    inside = BatchNorm(units, eps=1e-30, affine=False, dtype=torch.float64)

    def loss(x: Tensor) -> Tensor:
        return cross_entropy(head(x.relu()), labels)

    def layer(norm: Norm, operation: Callable[[Tensor, Tensor], Tensor]) -> Norm:
        return lambda parameter: norm(operation(u, parameter))

    b, a = torch.zeros(units).double(), torch.ones(units).double()
    first, h = gradient(layer(centred_outside, torch.add), loss, b), gradient(layer(outside, torch.mul), loss, a)
    # At these rates b goes to 100, and the fastest a to 10.
    rate_b, rate_a = 100 / (steps * first.norm()), 99 / (2 * steps * h.abs().max()) * (h < 0)
    predicted_b, predicted_a = [b], [a]
    for _ in range(steps):
        predicted_b.append(predicted_b[-1] - rate_b * first)
        predicted_a.append(predicted_a[-1] - rate_a * h / predicted_a[-1])
    measured: dict[str, object] = {
        "rates": rates,
        "predicted b": torch.stack(predicted_b).norm(dim=1),
        "predicted a": (torch.stack(predicted_a) ** 2 - 1).norm(dim=1),
    }
    kinds: dict[str, tuple[Norm, Norm]] = {"outside": (centre, normalize), "BN": (inside, inside)}
    for name, (of_b, of_a) in kinds.items():
        path_b, change_b = descend(layer(of_b, torch.add), loss, b, rate_b, steps)
        path_a, change_a = descend(layer(of_a, torch.mul), loss, a, rate_a, steps)
        measured |= {
            f"{name}: b": path_b.norm(dim=1),
            f"{name}: a": (path_a**2 - 1).norm(dim=1),
            f"{name}: changes": torch.maximum(change_b, change_a),
            f"{name}: losses": [trained(trial.seed, pixels, labels, of_a, units, steps, rate) for rate in rates],
        }
    return measured


def gradient(layer: Norm, loss: Callable[[Tensor], Tensor], parameter: Tensor) -> Tensor:
    """The gradient of the loss of the layer's output by its parameter."""
    parameter = parameter.clone().requires_grad_()
    return torch.autograd.grad(loss(layer(parameter)), parameter)[0]


def descend(
    layer: Norm, loss: Callable[[Tensor], Tensor], start: Tensor, rate: Tensor, steps: int
) -> tuple[Tensor, Tensor]:
    """The path of a parameter, [steps + 1, units], and the largest change on it of the layer's output and the loss."""
    path, changes = [start], []
    for _ in range(steps):
        path.append(path[-1] - rate * gradient(layer, loss, path[-1]))
        output = layer(path[-1])
        changes.append([(output - layer(start)).abs().max(), (loss(output) - loss(layer(start))).abs()])
    return torch.stack(path), torch.tensor(changes).amax(dim=0)


def trained(seed: int, pixels: Tensor, labels: Tensor, norm: Norm, units: int, steps: int, rate: float) -> float:
    """The loss of a network with one hidden layer, Wu + b, after gradient descent with everything in it."""
    torch.manual_seed(seed)  # both kinds and all rates begin with the same weights
    layer, head = nn.Linear(784, units).double(), nn.Linear(units, 10).double()
    optimizer = torch.optim.SGD([*layer.parameters(), *head.parameters()], lr=rate)
    for _ in range(steps + 1):
        loss = cross_entropy(head(norm(layer(pixels)).relu()), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return float(loss.detach().nan_to_num(torch.inf).clamp(max=1e3))


def judge(found: Found) -> list[Criterion]:
    """b and a move as predicted, and change nothing; with BN they stay; trained as a whole, the network is worse."""
    end, changes = {name: values[:, -1] for name, values in found.items()}, found["outside: changes"]
    best = {name: np.log10(found[f"{name}: losses"].min(axis=1)) for name in ("outside", "BN")}
    return [
        within("b at the end / predicted", end["outside: b"] / end["predicted b"], 0.98, 1.02),
        within("a² − 1 at the end / predicted", end["outside: a"] / end["predicted a"], 0.98, 1.02),
        below("largest change of x̂", changes[:, 0], ROUNDING),
        below("largest change of the loss", changes[:, 1], ROUNDING),
        below("with BN, b at the end / predicted", end["BN: b"] / end["predicted b"], ROUNDING),
        below("with BN, a² − 1 at the end / predicted", end["BN: a"] / end["predicted a"], ROUNDING),
        above("all trained: log10 of the loss outside / with BN", best["outside"] - best["BN"], np.log10(1.1)),
    ]


def draw(found: Found) -> Figure:
    """The paths of b and a, and the losses of the whole network against the learning rate."""
    figure, axes = panels("(a) Only b is trained", "(b) Only a is trained", "(c) Everything is trained", columns=3)
    steps = np.arange(found["predicted b"].shape[1])
    shown = np.linspace(0, steps[-1], 11).astype(int)
    labels = {"outside": "statistics outside the gradient", "BN": "batch normalization"}
    for number, (how, label) in enumerate(labels.items()):
        curve(axes[0], shown, found[f"{how}: b"][:, shown], label, number)
        curve(axes[1], shown, found[f"{how}: a"][:, shown], label, number)
        curve(axes[2], found["rates"][0], found[f"{how}: losses"], label, number)
    axes[0].plot(steps, found["predicted b"].mean(axis=0), "k:", label="predicted")
    axes[1].plot(steps, found["predicted a"].mean(axis=0), "k:", label="predicted")
    axes[0].set(xlabel="steps, none of which changes the loss", ylabel="norm of b, where x = u + b")
    axes[1].set(xlabel="steps, none of which changes the loss", ylabel="norm of a² − 1, where x = a·u")
    axes[2].set(xscale="log", yscale="log", xlabel="learning rate", ylabel="training loss at the end")
    for each in axes:
        each.legend(fontsize="small")
    return figure


EXPERIMENT = Experiment(
    measure,
    judge,
    draw,
    seeds=10,
    size={"images": 600, "units": 100, "steps": 500, "rates": [0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0]},
    quick={"images": 100, "units": 20, "steps": 60, "rates": [0.1, 1.0]},
)

if __name__ == "__main__":
    main(__file__)
