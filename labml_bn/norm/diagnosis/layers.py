"""The numbers of one layer, from what the passes have found."""

import math
from dataclasses import dataclass, replace

import torch

from labml_bn.norm.diagnosis.moments import Shift, Statistics
from labml_bn.norm.diagnosis.outcomes import Outcomes
from labml_bn.norm.diagnosis.passes import LayerInputs

#: A channel is constant if its standard deviation is below this fraction of its mean: float32 rounds to 1.2e-7 of it.
CONSTANT = 1e-6

#: A difference of less than two standard errors may be chance; here as a factor of its square.
TWO_ERRORS = 4

UNKNOWN = Shift(math.nan, math.nan)


@dataclass(frozen=True)
class LayerDiagnosis:
    """What was measured of one layer. The numbers after `calls` are unknown (NaN) if the network does not call it.

    name: its name in the network
    channels: how many
    momentum: that of the layer; None for the plain average
    updates: `num_batches_tracked`, how many batches its running statistics have averaged; None if it is not counted
    training, frozen: its mode, and whether it was frozen on purpose, by `freeze`
    initial: whether the running statistics are the initial ones, 0 and 1
    invalid: the state with NaN or infinite values or negative variances, by name; `input`, if inputs had some
    calls: how often the network calls it in a forward pass
    dead, vanishing: how many channels have a constant input, and how many others a variance below `eps`
    from_population: from the population's statistics to the running ones
    from_batch: from a batch's statistics to the running ones
    initial_shift: from the population's statistics to what they are with the initial values still in them
    batch_size: how many samples are normalized together: those of the network's input, or of a ghost batch
    ghost_batch_size: that of the layer; None without ghost batches
    noise: by how much a value of the normalized output differs, in standard deviations, because the layer normalizes by
        the batch and not by the population: the root mean square in the median channel; 0 if batch renormalization
        corrects it
    noise_of_running: how far the running statistics are from the population's by chance
    sorting: the variation between the batches over that of random samples; NaN if it is not known
    between_calls: how far the statistics of the calls are from their average
    from_training: from the training data to the evaluation data; None without evaluation data
    effect: what changes in evaluation if this layer alone gets the population's statistics: the loss, or without one
        the output (root mean square of the change over that of the output)
    """

    name: str
    channels: int
    momentum: float | None
    updates: int | None
    training: bool
    frozen: bool
    initial: bool
    invalid: tuple[str, ...]
    calls: int = 0
    dead: int = 0
    vanishing: int = 0
    from_population: Shift = UNKNOWN
    from_batch: Shift = UNKNOWN
    initial_shift: Shift = UNKNOWN
    batch_size: int = 0
    ghost_batch_size: int | None = None
    noise: float = math.nan
    noise_of_running: Shift = UNKNOWN
    sorting: float = math.nan
    between_calls: Shift = UNKNOWN
    from_training: Shift | None = None
    effect: float = math.nan

    @property
    def initial_weight(self) -> float:
        """The weight that the initial values 0 and 1 still have in the running statistics; 0 if it is not known."""
        if self.updates is None or (self.momentum is None and self.updates > 0):
            return 0.0
        return (1 - (self.momentum or 0.0)) ** self.updates

    @property
    def batch_share(self) -> float:
        """The variance of the running statistics over that of a batch's: the sum of the squares of the weights."""
        if self.momentum is None:
            return 1 / max(1, self.updates or 1)
        return self.momentum * (1 - self.initial_weight**2) / (2 - self.momentum)


def diagnose_layer(name: str, inputs: LayerInputs, outcomes: Outcomes) -> LayerDiagnosis:
    """The numbers of the layer with this name."""
    layer = inputs.layer
    invalid = [
        key
        for key, value in layer.state_dict().items()
        if not value.isfinite().all() or (key == "running_var" and value.min() < 0)
    ]
    state = LayerDiagnosis(
        name=name,
        channels=layer.num_features,
        momentum=layer.momentum,
        updates=inputs.updates,
        training=layer.training,
        frozen=inputs.frozen,
        initial=bool((inputs.running.mean == 0).all() and (inputs.running.var == 1).all()),
        invalid=tuple(invalid),
        calls=len(inputs.by_call),
    )
    if not inputs.by_call:
        return state

    eps, calls, population = layer.eps, inputs.by_call, inputs.population
    samples, ghost_batch_size = calls[0].samples, getattr(layer, "ghost_batch_size", None)
    size = math.ceil(calls[0].batch_size / math.ceil(calls[0].batch_size / (ghost_batch_size or calls[0].batch_size)))
    mean, var = (
        torch.stack(squares).mean(0) for squares in zip(*(call.per_sample(eps) for call in calls), strict=True)
    )
    by_chance = (TWO_ERRORS * mean / samples, TWO_ERRORS * var / samples)  # the population's statistics are estimates
    share = state.batch_share / size
    initial = Statistics(torch.zeros_like(population.mean), torch.ones_like(population.var))
    mixed = Statistics(*(torch.lerp(*pair, state.initial_weight) for pair in zip(population, initial, strict=True)))
    constant = population.var <= (CONSTANT * population.mean).square()
    finite = population.mean.isfinite().all() and population.var.isfinite().all()
    of_shift, of_scale = (mean / size).sqrt(), (var / 4 / size).sqrt()  # of the normalized values; of their logarithm
    corrected = _is_renormalized(inputs, of_shift.median().item(), of_scale.median().item())
    noise = 0.0 if corrected else torch.hypot(of_shift, of_scale).median().item()
    between = [Shift.between(call.average(), population, eps, by_chance) for call in calls]
    return replace(
        state,
        invalid=state.invalid if finite else (*state.invalid, "input"),
        dead=int(constant.sum()),
        vanishing=int((~constant & (population.var < eps)).sum()),
        from_population=Shift.between(inputs.running, population, eps, by_chance),
        from_batch=inputs.from_batch,
        initial_shift=Shift.between(mixed, population, eps),
        batch_size=size,
        ghost_batch_size=ghost_batch_size,
        noise=noise,
        noise_of_running=Shift.of_squares((mean * share).mean().item(), (var * share).mean().item()),
        sorting=calls[0].sorting(eps),
        between_calls=Shift(max(shift.mean for shift in between), max(shift.var for shift in between)),
        from_training=_from_training(inputs),
        effect=outcomes[name] - (outcomes["running"] if outcomes.loss is not None else 0.0),
    )


def _is_renormalized(inputs: LayerInputs, of_shift: float, of_scale: float) -> bool:
    """Whether the layer has batch renormalization with limits for twice this noise, or more."""
    renorm = getattr(inputs.layer, "renorm", None)
    if renorm is None or inputs.updates is None:
        return False
    r_max, d_max = renorm.limits(torch.tensor(inputs.updates))
    return bool(d_max >= 2 * of_shift and r_max.log() >= 2 * of_scale)


def _from_training(inputs: LayerInputs) -> Shift | None:
    trained, evaluated, eps = inputs.trained, inputs.evaluated, inputs.layer.eps
    if evaluated.samples == 0:
        return None
    mean, var = trained.per_sample(eps)
    share = TWO_ERRORS * (1 / trained.samples + 1 / evaluated.samples)
    return Shift.between(evaluated.pooled(), trained.pooled(), eps, (mean * share, var * share))
