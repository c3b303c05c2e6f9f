"""What each cause is called, in words with the measured numbers, and what to do about it."""

import math

from labml_bn.norm.diagnosis.layers import LayerDiagnosis
from labml_bn.norm.diagnosis.thresholds import (
    DATA,
    DEFAULT_MOMENTUM,
    NOISE,
    STATISTICS,
    arriving_momentum,
    distance,
    quiet_momentum,
)

#: The explanation, the numbers of the layer that is affected most, and the remedy.
Words = tuple[str, dict[str, float], str]

_REESTIMATE = "re-estimate the statistics: estimate_population(model, batches)"


def _farthest(layers: list[LayerDiagnosis]) -> tuple[LayerDiagnosis, dict[str, float]]:
    """The layer whose running statistics are farthest from the population's, and how far they are."""
    worst = max(layers, key=lambda layer: distance(layer.from_population, STATISTICS))
    return worst, {"mean": worst.from_population.mean, "var": worst.from_population.var}


def non_finite(layers: list[LayerDiagnosis]) -> Words:
    """NaN, infinity or a negative variance in the state or the inputs."""
    names = ", ".join(layers[0].invalid)
    words = f"NaN, infinite or negative values where there can be none: {names} of {_name(layers[0])}"
    if layers[0].invalid == ("input",):
        remedy = "look for the first such value in the data, or in the layers before it"
    elif all(set(layer.invalid) <= {"running_mean", "running_var", "input"} for layer in layers):
        remedy = f"{_REESTIMATE}, and look for the batch that had such values"
    else:
        remedy = "load a checkpoint from before it, and train with a lower learning rate"
    return words, {"layers": len(layers)}, remedy


def mixed_modes(layers: list[LayerDiagnosis]) -> Words:
    """Layers in another mode than the network."""
    own, network = ("training", "evaluation") if layers[0].training else ("evaluation", "training")
    return (
        f"modes are mixed: the network is in {network} mode, these layers are in {own} mode",
        {"layers": len(layers)},
        f"call model.{'train' if network == 'training' else 'eval'}() for the whole network; freeze(layer) keeps "
        "a layer in evaluation on purpose",
    )


def never_updated(layers: list[LayerDiagnosis]) -> Words:
    """Running statistics that are still the initial ones."""
    worst, numbers = _farthest(layers)
    return (
        f"never updated: the running statistics are the initial 0 and 1, {worst.from_population} from the population's",
        {**numbers, "updates": 0},
        f"call these layers in training mode, or {_REESTIMATE}",
    )


def updated_once(layers: list[LayerDiagnosis]) -> Words:
    """Running statistics of the initial values and one batch."""
    worst, numbers = _farthest(layers)
    return (
        f"updated once: the initial 0 and 1 have a weight of {worst.initial_weight:.2g}, the statistics are "
        f"{worst.from_population} from the population's",
        {**numbers, "updates": 1, "initial_weight": worst.initial_weight},
        f"{_REESTIMATE}, or train for more batches",
    )


def lagging(layers: list[LayerDiagnosis]) -> Words:
    """Running statistics in which the initial values still count."""
    worst, numbers = _farthest(layers)
    assert worst.updates is not None
    assert worst.momentum is not None
    momentum = arriving_momentum(worst.updates)
    numbers |= {"updates": worst.updates, "momentum": worst.momentum, "initial_weight": worst.initial_weight}
    remedy = f"{_REESTIMATE}, or train for more batches"
    if momentum > worst.momentum:
        remedy = f"{_REESTIMATE}, or train with momentum={momentum:.2g}"
        numbers["recommended"] = momentum
    return (
        f"running statistics lag: after {worst.updates} updates with momentum {worst.momentum:.3g} the initial 0 and 1 "
        f"have a weight of {worst.initial_weight:.2g}; they are {worst.from_population} from the population's",
        numbers,
        remedy,
    )


def repeated_calls(layers: list[LayerDiagnosis]) -> Words:
    """A layer that different inputs share."""
    worst = max(layers, key=lambda layer: distance(layer.between_calls, DATA))
    return (
        f"called {worst.calls} times in a forward pass, with inputs that are {worst.between_calls} from their average: "
        "training normalizes each by its own statistics, evaluation all by the average",
        {"calls": worst.calls, "mean": worst.between_calls.mean, "var": worst.between_calls.var},
        "give each call a layer of its own; only weight and bias may be shared",
    )


def small_batches(layers: list[LayerDiagnosis]) -> Words:
    """Batches that are too small for their statistics."""
    worst = max(layers, key=lambda layer: layer.noise)
    needed = math.ceil(worst.batch_size * (worst.noise / NOISE) ** 2)
    kind, remedy = "batches", f"train in batches of at least {needed}, or with SyncBatchNorm over several processes"
    if worst.ghost_batch_size is not None:
        kind, remedy = "ghost batches", f"train in batches of at least {needed}, with ghost_batch_size={needed}"
    return (
        f"the batch's own noise dominates: in {kind} of {worst.batch_size} it moves each normalized value by "
        f"{worst.noise:.2g} sd in training, and not in evaluation",
        {"batch_size": worst.batch_size, "noise": worst.noise, "batch_size_needed": needed},
        remedy,
    )


def sorted_batches(layers: list[LayerDiagnosis]) -> Words:
    """Batches that are not random samples."""
    worst = max(layers, key=lambda layer: layer.noise)
    return (
        f"the batches are not random samples: they differ {worst.sorting:.2g} times as much, which moves each "
        f"normalized value by {worst.noise:.2g} sd in training, and not in evaluation",
        {"batch_size": worst.batch_size, "noise": worst.noise, "sorting": worst.sorting},
        "shuffle the training data (DataLoader(..., shuffle=True))",
    )


def noisy_average(layers: list[LayerDiagnosis]) -> Words:
    """Running statistics that average too few batches."""
    worst, numbers = _farthest(layers)
    momentum = min(quiet_momentum(layer) for layer in layers)
    own = "the plain average" if worst.momentum is None else f"momentum {worst.momentum:.3g}"
    return (
        f"running statistics are those of a few batches: with {own} they are {worst.from_population} from the "
        f"population's, of which {worst.noise_of_running} are chance",
        {**numbers, "recommended": momentum},
        f"{_REESTIMATE}, or train with momentum={momentum:.1g}",
    )


def outdated(layers: list[LayerDiagnosis]) -> Words:
    """Running statistics that are far from the population's for no other cause."""
    worst, numbers = _farthest(layers)
    remedy = f"{_REESTIMATE}, as is needed after weights were averaged, loaded or pruned, or have changed fast"
    if worst.momentum is None:
        remedy = f"{_REESTIMATE}, or train with momentum={DEFAULT_MOMENTUM}, which forgets the batches of early weights"
    text = "running statistics are of other weights or other data"
    return f"{text}: they are {worst.from_population} from the population's", numbers, remedy


def shifted_data(layers: list[LayerDiagnosis]) -> Words:
    """Evaluation data that differ from the training data."""
    first = layers[0]
    assert first.from_training is not None
    return (
        f"the evaluation data are not like the training data: {first.from_training} at {_name(first)}, "
        "the first that shows it",
        {"mean": first.from_training.mean, "var": first.from_training.var},
        "prepare both in the same way (scaling, order of channels); for another domain, "
        "estimate_population(model, evaluation_batches), and diagnose(model, evaluation_batches)",
    )


def dead_channels(layers: list[LayerDiagnosis]) -> Words:
    """Channels with a constant input."""
    worst = max(layers, key=lambda layer: layer.dead / layer.channels)
    return (
        f"dead channels: {worst.dead} of {worst.channels} have a constant input in {_name(worst)}; in evaluation, any "
        "other input would be multiplied by up to 1/sqrt(eps)",
        {"dead": worst.dead, "channels": worst.channels},
        "look at the layer before for weights of 0 and for units that a ReLU keeps at 0; leave constant inputs out",
    )


def vanishing_variance(layers: list[LayerDiagnosis]) -> Words:
    """Channels whose variance is below eps."""
    worst = max(layers, key=lambda layer: layer.vanishing / layer.channels)
    return (
        f"vanishing variance: below eps in {worst.vanishing} of {worst.channels} channels of {_name(worst)}, which "
        "contribute little more than their bias",
        {"vanishing": worst.vanishing, "channels": worst.channels},
        "use less weight decay for the layer before, which can shrink its weights to 0; scale small inputs, or use a "
        "smaller eps",
    )


def _name(layer: LayerDiagnosis) -> str:
    return f"layer {layer.name!r}" if layer.name else "the layer"
