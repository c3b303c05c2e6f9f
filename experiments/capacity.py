"""Claim 6: γ and β restore what a layer can represent.

Source: Ioffe & Szegedy 2015, §3. To normalize the inputs of a layer may change what it can represent: "normalizing the
inputs of a sigmoid would constrain them to the linear regime of the nonlinearity". γ = √Var[x] and β = E[x] would
recover the original inputs, "if that were the optimal thing to do".

Measured: of the inputs of all sigmoids of a network with two hidden layers, the share in the linear range, |x| < 1.763,
where the sigmoid has at least half of its largest slope. (a) Of a network that was trained without normalization: as it
is, with its sigmoids' inputs normalized, and with those γ and β. (b) The largest difference between the logits as they
were and with those γ and β, relative to their standard deviation. (c) Of networks trained with normalization, without
and with γ and β, and their loss on the training images. Each network at the best of several learning rates, by its loss
on held-out images.

Refuted if: normalized inputs are less than 90 % in the linear range (of a normal distribution 92 % are); they are not
at least 5 points more than before; γ and β do not recover the logits to rounding; or trained γ and β do not take at
least 5 points out of the linear range. The loss is shown: it says whether it was optimal, of which the claim is silent.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from matplotlib.figure import Figure
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from experiments.laboratory import Criterion, Experiment, Found, Measured, Trial, above, bars, below, images, panels
from experiments.machinery.command import main
from labml_bn import BatchNorm
from labml_bn.data.mnist import ImageSet

#: σ'(x) = σ'(0) / 2 at ± this.
LINEAR = 1.7627

#: The share of a normal distribution that is between them.
NORMAL = 0.922

#: What is more than rounding: float32, sums of a hundred products in each of three layers.
ROUNDING = 1e-4

UNITS = 100

#: The networks that are trained: what is before each sigmoid.
KINDS = {"none": None, "normalized": False, "affine": True}


def measure(
    trial: Trial,
    *,
    train_images: int,
    held_out: int,
    epochs: int,
    rates: Sequence[float],
    norm: type[BatchNorm] = BatchNorm,
) -> Measured:
    """The shares in the linear range, the change of the logits, and the losses of the networks trained."""
    words = [f"train_samples={train_images}", f"held_out={held_out}", f"epochs={epochs}"]
    words += ["valid_samples=1000", "inner_iterations=1", "keep=1"]
    chosen = images("held_out", held_out, held_out=held_out, seed=trial.seed)
    networks = {}
    for kind, affine in KINDS.items():

        def make(affine: bool | None = affine) -> nn.Sequential:
            return network(norm, affine)

        trained = [train(trial, make, [*words, f"lr={rate}", f"network=sigmoids-{kind}"]) for rate in rates]
        networks[kind] = min(trained, key=lambda model: loss(model, chosen))

    test, train_set = images("test", 10000), images("train", train_images, held_out=held_out, seed=trial.seed)
    x = test.batch(slice(None))[0]
    plain, logits = run(networks["none"], x)
    normalized, _ = run(networks["none"], x, lambda _: norm(UNITS))
    restored, restored_logits = run(networks["none"], x, lambda inputs: restoring(norm(UNITS), inputs))
    return {
        "share: no normalization": plain,
        "share: normalized": normalized,
        "share: γ and β set": restored,
        "share: trained without γ and β": run(networks["normalized"], x)[0],
        "share: trained with γ and β": run(networks["affine"], x)[0],
        "change of the logits": float((restored_logits - logits).abs().max() / logits.std()),
        **{f"loss: {kind}": loss(model, train_set) for kind, model in networks.items()},
    }


def network(norm: type[BatchNorm], affine: bool | None) -> nn.Sequential:
    """Two hidden layers of sigmoids: `affine` is that of the normalization, None means that there is none."""
    layers: list[nn.Module] = [nn.Flatten()]
    for width in (784, UNITS):
        layers += [nn.Linear(width, UNITS), *([] if affine is None else [norm(UNITS, affine=affine)]), nn.Sigmoid()]
    return nn.Sequential(*layers, nn.Linear(UNITS, 10))


def train(trial: Trial, make: Callable[[], nn.Sequential], words: Sequence[str]) -> nn.Sequential:
    """The trained network, in evaluation."""
    model = make()
    model.load_state_dict(load_file(trial.train(*words, model=make).folder / "model.safetensors"))
    return model.eval()


@torch.no_grad()
def run(
    model: nn.Sequential, x: Tensor, inserted: Callable[[Tensor], nn.Module] = lambda _: nn.Identity()
) -> tuple[float, Tensor]:
    """The share of the sigmoids' inputs in the linear range, with a layer inserted before each, and the logits."""
    shares = []
    for layer in model:
        if isinstance(layer, nn.Sigmoid):
            x = inserted(x)(x)
            shares.append(float((x.abs() < LINEAR).double().mean()))
        x = layer(x)
    return float(np.mean(shares)), x


def restoring(layer: BatchNorm, x: Tensor) -> BatchNorm:
    """The layer with the γ and β that make it give x for x."""
    variance, mean = torch.var_mean(x, dim=0, correction=0)
    layer.weight.copy_((variance + layer.eps).sqrt())
    layer.bias.copy_(mean)
    return layer


@torch.no_grad()
def loss(model: nn.Module, data: ImageSet) -> float:
    """The mean loss of all images."""
    pixels, labels = data.batch(slice(None))
    return float(cross_entropy(model(pixels), labels))


def judge(found: Found) -> list[Criterion]:
    """Normalization confines the inputs; γ and β release them, both as they can be set and as they are trained."""
    share = {name.removeprefix("share: "): values for name, values in found.items() if name.startswith("share")}
    return [
        above("share of normalized inputs in the linear range", share["normalized"], 0.9),
        above("more than before the normalization", share["normalized"] - share["no normalization"], 0.05),
        below("change of the logits with γ = √Var[x], β = E[x]", found["change of the logits"], ROUNDING),
        above(
            "taken out by trained γ and β",
            share["trained without γ and β"] - share["trained with γ and β"],
            0.05,
        ),
    ]


def draw(found: Found) -> Figure:
    """The shares, and the losses."""
    figure, (shares, losses) = panels("(a, c) Inputs of sigmoids in the linear range", "(c) What that costs")
    names = {
        "no normalization": "none",
        "normalized": "none, then\nnormalized",
        "γ and β set": "none, then\nγ and β set",
        "trained without γ and β": "trained\nwithout\nγ and β",
        "trained with γ and β": "trained\nwith\nγ and β",
    }
    bars(shares, {label: found[f"share: {name}"] for name, label in names.items()})
    shares.axhline(NORMAL, color="black", linestyle=":")
    shares.text(-0.4, NORMAL - 0.01, "of a normal\ndistribution", fontsize="small", va="top")
    shares.set(ylabel="share", ylim=(0, 1))
    shares.tick_params(axis="x", labelsize="small")
    labels = {"none": "none", "normalized": "without\nγ and β", "affine": "with\nγ and β"}
    bars(losses, {label: found[f"loss: {kind}"] for kind, label in labels.items()})
    losses.set(yscale="log", ylabel="loss on the training images", xlabel="normalization in training")
    shares.set_xlabel("normalization")
    return figure


EXPERIMENT = Experiment(
    measure,
    judge,
    draw,
    seeds=5,
    size={"train_images": 20000, "held_out": 5000, "epochs": 10, "rates": [0.001, 0.003, 0.01]},
    quick={"train_images": 1000, "held_out": 500, "epochs": 8, "rates": [0.01]},
)

if __name__ == "__main__":
    main(__file__)
