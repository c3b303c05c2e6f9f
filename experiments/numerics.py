"""Claim 9: the variance as E[x²] − E[x]² is lost, and training with it, long before that of two passes.

Source: Chan, Golub & LeVeque 1983, Algorithms for computing the sample variance, as summarised by their error bounds.
With unit roundoff u and κ = mean / deviation, the relative error is about u·κ² for E[x²] − E[x]², and u·κ for two
passes and for Welford's and Chan's updates. So the former stops being right at κ = 1/√u and the others at 1/u, which is
4000 times as far in float32, 45 times in float16 and 23 times in bfloat16.

Measured: in each of these dtypes, with every operation rounded to it, and κ from 1 to 1e8 (deviation 1): (1) the
relative error of each formula's variance, against that of the same values in float64, as its median over channels; (2)
the accuracy on held-out images of a network with one hidden layer, after some steps of SGD with a batch normalization
that uses the formula and has an input with this mean. A formula is right up to the largest κ until which all errors are
below 10 %, and trains up to the largest until which all accuracies are at least 90 % of the best.

Refuted if: in any dtype, two passes are not right for at least 10 times the κ, or do not train for a larger one.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import ArrayLike, NDArray
from torch import Tensor
from torch.nn import functional as F

from experiments.laboratory import Criterion, Experiment, Found, Measured, Trial, above, curve, images, panels
from experiments.machinery.command import main

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}

#: A formula for the mean and the biased variance over dimension 0, whose length is a power of 2.
Formula = Callable[[Tensor], tuple[Tensor, Tensor]]


def mean(x: Tensor) -> Tensor:
    """The mean by pairs, pairs of pairs and so on. No sum is larger than twice the largest value."""
    while len(x) > 1:
        x = (x[0::2] + x[1::2]) * 0.5
    return x[0]


def textbook(x: Tensor) -> tuple[Tensor, Tensor]:
    """E[x²] − E[x]²."""
    return mean(x), mean(x * x) - mean(x) * mean(x)


def two_pass(x: Tensor) -> tuple[Tensor, Tensor]:
    """E[(x − E[x])²]."""
    centered = x - mean(x)
    return mean(x), mean(centered * centered)


def welford(x: Tensor) -> tuple[Tensor, Tensor]:
    """One value after another."""
    average, var = x[0], torch.zeros_like(x[0])
    for count, value in enumerate(x[1:], 2):
        before = value - average
        average = average + before / count
        var = var + (before * (value - average) - var) / count
    return average, var


def chan(x: Tensor) -> tuple[Tensor, Tensor]:
    """By pairs of parts, each with its mean and variance."""
    average, var = x, torch.zeros_like(x)
    while len(average) > 1:
        difference = average[1::2] - average[0::2]
        average = average[0::2] + difference * 0.5
        var = (var[0::2] + var[1::2]) * 0.5 + difference * difference * 0.25
    return average[0], var[0]


#: By what they are called in the figure.
OTHERS: dict[str, Formula] = {"two passes": two_pass, "Chan": chan, "Welford": welford}
TEXTBOOK = "E[x²] − E[x]²"


def measure(trial: Trial, *, ratios: Sequence[float], values: int, steps: int, formula: Formula = textbook) -> Measured:
    """The errors and accuracies [κ] of each formula in each dtype, and the decades up to which they are right."""
    measured: dict[str, ArrayLike] = {"ratios": ratios}
    data = images("train", 60_000, held_out=2000, seed=trial.seed).batch(slice(0, 256 * steps))
    held_out = images("held_out", 2000, held_out=2000, seed=trial.seed).batch(slice(None))
    x = torch.randn(values, 1, 64, dtype=torch.float64) + torch.tensor(ratios, dtype=torch.float64)[:, None]
    for dtype_name, dtype in DTYPES.items():
        for name, of in {TEXTBOOK: formula, **OTHERS}.items():
            wrong = errors(of, x.to(dtype))
            measured[f"{dtype_name}, {name}: error"] = wrong
            measured[f"{dtype_name}, {name}: right up to"] = decades(wrong < 0.1, ratios)
            if of is welford:
                continue  # as right as Chan's, and one step after another too slow for training
            correct = np.array([accuracy(of, dtype, ratio, data, held_out, trial.seed) for ratio in ratios])
            measured[f"{dtype_name}, {name}: accuracy"] = correct
    for dtype_name in DTYPES:
        trained = {name: np.asarray(measured[f"{dtype_name}, {name}: accuracy"]) for name in (TEXTBOOK, "two passes")}
        best = max(map(np.max, trained.values()))
        for name, correct in trained.items():
            measured[f"{dtype_name}, {name}: trains up to"] = decades(correct >= 0.9 * best, ratios)
    return measured


def errors(formula: Formula, x: Tensor) -> NDArray[np.float64]:
    """The relative errors of the variance of x [values, κ, channels], medians over the channels; at most 10."""
    expected = x.double().var(dim=0, correction=0)
    relative = ((formula(x)[1].double() - expected) / expected).abs().nan_to_num(nan=10, posinf=10)
    return np.minimum(np.asarray(relative.median(dim=1).values, np.float64), 10)


def decades(good: NDArray[np.bool_], ratios: Sequence[float]) -> float:
    """log10 of the last κ until which all are good; of half the first if not even that is."""
    number = len(good) if good.all() else int(good.argmin())
    return float(np.log10(ratios[number - 1] if number else ratios[0] / 2))


def accuracy(
    formula: Formula,
    dtype: torch.dtype,
    ratio: float,
    data: tuple[Tensor, Tensor],
    held_out: tuple[Tensor, Tensor],
    seed: int,
) -> float:
    """The accuracy after SGD on batches of 256. If a value is not finite, training ends: a guess, 0.1."""
    generator = torch.Generator().manual_seed(seed)
    first = (torch.randn(784, 64, generator=generator) / 28).requires_grad_()
    last = (torch.randn(64, 10, generator=generator) / 8).requires_grad_()

    def logits(pixels: Tensor) -> Tensor:
        x = (pixels.flatten(1) @ first + ratio).to(dtype)
        average, var = formula(x)
        normalized = (x - average) * (var + 1e-5).rsqrt()
        return normalized.float().relu() @ last

    for pixels, labels in zip(*(each.split(256) for each in data), strict=True):
        gradients = torch.autograd.grad(F.cross_entropy(logits(pixels), labels), [first, last])
        if not all(gradient.isfinite().all() for gradient in gradients):
            return 0.1
        with torch.no_grad():
            for weight, gradient in zip((first, last), gradients, strict=True):
                weight -= 0.1 * gradient
    with torch.no_grad():
        pixels, labels = (each[:1024] for each in held_out)  # a batch of its own: there are no running statistics here
        return float((logits(pixels).argmax(dim=1) == labels).double().mean())


def judge(found: Found) -> list[Criterion]:
    """In each dtype, the decades of κ for which two passes are right, and train, and E[x²] − E[x]² does not."""
    return [
        above(
            f"{dtype}, decades of κ for which only two passes {does}",
            found[f"{dtype}, two passes: {what}"] - found[f"{dtype}, {TEXTBOOK}: {what}"],
            bound,
        )
        for dtype in DTYPES
        for what, does, bound in (("right up to", "are right", 1), ("trains up to", "train", 0))
    ]


def draw(found: Found) -> Figure:
    """The errors and the accuracies over κ, a column for each dtype."""
    names = [TEXTBOOK, *OTHERS]
    titles = [f"{what}, {dtype}" for what in ("Error of the variance", "Accuracy") for dtype in DTYPES]
    figure, axes = panels(*titles, columns=len(DTYPES))
    for dtype, upper, lower in zip(DTYPES, axes[: len(DTYPES)], axes[len(DTYPES) :], strict=True):
        for number, name in enumerate(names):
            curve(upper, found["ratios"][0], np.maximum(found[f"{dtype}, {name}: error"], 1e-8), name, number)
            if f"{dtype}, {name}: accuracy" in found:
                curve(lower, found["ratios"][0], found[f"{dtype}, {name}: accuracy"], name, number)
        upper.axhline(0.1, color="black", linewidth=1)
        upper.set_yscale("log")
        for each in (upper, lower):
            each.set_xscale("log")
            each.set_xlabel("mean / deviation of the layer's input")
        lower.set_ylim(0, 1)
    axes[0].set_ylabel("relative error (line: 10 %)")
    axes[len(DTYPES)].set_ylabel("accuracy on held-out images")
    axes[0].legend(fontsize="small")
    return figure


EXPERIMENT = Experiment(
    measure,
    judge,
    draw,
    seeds=8,
    size={"ratios": [10 ** (half / 2) for half in range(17)], "values": 1024, "steps": 100},
    quick={"ratios": [1.0, 10.0, 100.0, 1e3, 1e5], "values": 64, "steps": 10},
)

if __name__ == "__main__":
    main(__file__)
