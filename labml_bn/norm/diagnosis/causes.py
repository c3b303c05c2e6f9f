"""Which causes the layers of a network have, by their numbers.

A rule names a cause only if its effect is there: running statistics that are close to the population's need no cause,
whatever the momentum and the number of updates are. Layers that are frozen on purpose use their running statistics in
training too, so whatever these are, they do not make evaluation different.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from labml_bn.norm.diagnosis import words
from labml_bn.norm.diagnosis.layers import LayerDiagnosis
from labml_bn.norm.diagnosis.thresholds import DATA, LEFT_OVER, NOISE, SORTED, STATISTICS, distance

#: Causes that cost channels, but make no difference between training and evaluation as long as the data are the same.
LOST_CHANNELS = {"dead_channels", "vanishing_variance"}


@dataclass(frozen=True)
class Finding:
    """One cause, the names of the layers that have it, in the order of the network, and what to do about it.

    `explanation` is a sentence with the measured numbers. `numbers` has those of the layer that is affected most.
    """

    cause: str
    layers: tuple[str, ...]
    explanation: str
    numbers: dict[str, float]
    remedy: str


def find_causes(layers: Sequence[LayerDiagnosis], training: bool) -> tuple[Finding, ...]:
    """What is wrong with these layers of a network in training mode or not: each cause that they have, in this order:

    `non_finite`, `mixed_modes`, `never_updated`, `updated_once`, `lagging`, `repeated_calls`, `small_batches`,
    `sorted_batches`, `noisy_average`, `dead_channels`, `vanishing_variance`, `outdated`, `shifted_data`.
    """
    has_invalid_state = any(set(layer.invalid) - {"input"} for layer in layers)

    def is_consequence(layer: LayerDiagnosis) -> bool:
        """Whether the layer has nothing but invalid inputs, which the invalid state of another explains."""
        return has_invalid_state and layer.invalid == ("input",)

    rules: dict[str, tuple[Callable[[LayerDiagnosis], bool], Callable[[list[LayerDiagnosis]], words.Words]]] = {
        "non_finite": (lambda layer: bool(layer.invalid) and not is_consequence(layer), words.non_finite),
        "mixed_modes": (lambda layer: not layer.frozen and layer.training != training, words.mixed_modes),
        "never_updated": (_has_statistics("never_updated"), words.never_updated),
        "updated_once": (_has_statistics("updated_once"), words.updated_once),
        "lagging": (_has_statistics("lagging"), words.lagging),
        "repeated_calls": (
            lambda layer: layer.calls > 1 and distance(layer.between_calls, DATA) > 1,
            words.repeated_calls,
        ),
        "small_batches": (lambda layer: _is_noisy(layer) and not layer.sorting > SORTED, words.small_batches),
        "sorted_batches": (lambda layer: _is_noisy(layer) and layer.sorting > SORTED, words.sorted_batches),
        "noisy_average": (_has_statistics("noisy_average"), words.noisy_average),
        "dead_channels": (lambda layer: layer.dead > 0, words.dead_channels),
        "vanishing_variance": (lambda layer: layer.vanishing > 0, words.vanishing_variance),
        "outdated": (_has_statistics("outdated"), words.outdated),
        "shifted_data": (lambda layer: distance(layer.from_training, DATA) > 1, words.shifted_data),
    }
    findings = []
    for cause, (applies, describe) in rules.items():
        if found := [layer for layer in layers if applies(layer)]:
            findings.append(Finding(cause, tuple(layer.name for layer in found), *describe(found)))
    return tuple(findings)


def _is_noisy(layer: LayerDiagnosis) -> bool:
    return not layer.frozen and layer.noise > NOISE


def _has_statistics(cause: str) -> Callable[[LayerDiagnosis], bool]:
    """Whether the running statistics of a layer are wrong for this cause."""
    return lambda layer: _cause_of_statistics(layer) == cause


def _cause_of_statistics(layer: LayerDiagnosis) -> str | None:
    """Why the running statistics are far from the population's, if they are."""
    if layer.frozen or layer.calls == 0 or layer.invalid:
        return None
    if layer.initial and not layer.updates:
        return "never_updated"
    far = distance(layer.from_population, STATISTICS)
    if not far > 1:
        return None
    if layer.updates == 1:
        return "updated_once"
    if layer.updates and (layer.initial_weight >= LEFT_OVER or distance(layer.initial_shift, STATISTICS) >= far / 2):
        return "lagging"
    return "noisy_average" if distance(layer.noise_of_running, STATISTICS) >= far / 2 else "outdated"
