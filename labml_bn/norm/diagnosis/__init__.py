"""Why a network does worse in evaluation than in training: what its batch normalization layers measure, and the cause.

`passes.py` runs the network, with `undisturbed.py`, and collects `moments.py` and `outcomes.py`; `layers.py` has the
numbers of a layer, `thresholds.py` their limits, `causes.py` the rules, `words.py` the explanations and remedies,
`report.py` the result and how it is printed.
"""

from torch import nn

from labml_bn.norm.batches import Batches
from labml_bn.norm.diagnosis.causes import Finding, find_causes
from labml_bn.norm.diagnosis.layers import LayerDiagnosis, diagnose_layer
from labml_bn.norm.diagnosis.outcomes import Loss
from labml_bn.norm.diagnosis.passes import Passes
from labml_bn.norm.diagnosis.report import Diagnosis, Outcome

__all__ = ["Diagnosis", "Finding", "LayerDiagnosis", "Outcome", "diagnose"]


def diagnose(
    model: nn.Module, batches: Batches, *, evaluation: Batches | None = None, loss: Loss | None = None
) -> Diagnosis:
    """Say why `model` does worse in evaluation than in training, as far as its batch normalization is the cause.

    >>> import torch
    >>> from labml_bn.norm import BatchNorm
    >>> layer = BatchNorm(2, momentum=0.01)
    >>> batches = torch.randn(20, 64, 2, generator=torch.Generator().manual_seed(0)) * 3 + 1
    >>> for x in batches:
    ...     y = layer(x)
    >>> [(finding.cause, finding.remedy) for finding in diagnose(layer, batches).findings]
    [('lagging', 're-estimate the statistics: estimate_population(model, batches), or train with momentum=0.18')]

    It supports this project's layers and PyTorch's. The network, its modes, statistics, gradients and hooks and the
    states of PyTorch's random generators are afterwards as before, bit by bit, also after an error.

    It iterates `batches` twice and `evaluation` once, and calls the network 4 times + once per layer for each training
    batch, and twice for each evaluation batch. Of the data, it keeps per-channel vectors; an iterator (a generator) is
    first read into memory. A few dozens of batches are enough.

    Arguments:
        model: the network
        batches: data like those that it was trained on, in batches of the same size: inputs [batch, *], or tuples whose
            first element is the input. With a `loss`, tuples (input, target). An input can be a mapping of the
            network's keyword arguments, such as `{"x": x, "mask": mask}`
        evaluation: data like those that it is evaluated on, in the same form, to compare them with the training data
        loss: takes (output, target) and returns the mean over the batch, as `torch.nn.functional.cross_entropy` does.
            Without it, changes of the output are measured

    Raises ValueError if the network has no batch normalization layer, one keeps no running statistics or is called with
    the wrong shape, there are no batches, a training batch has one value per channel, or a batch has no target for the
    `loss`; TypeError if an input is neither a tensor nor such a mapping.
    """
    passes = Passes(model, batches, evaluation, loss)
    layers = tuple(diagnose_layer(name, inputs, passes.outcomes) for name, inputs in passes.layers.items())
    has_evaluation = loss is not None and evaluation is not None
    outcome = Outcome(
        is_loss=loss is not None,
        batch=passes.outcomes["batch"],
        running=passes.outcomes["running"],
        population=passes.outcomes["population"],
        evaluation=passes.outcomes["evaluation"] if has_evaluation else None,
    )
    return Diagnosis(layers, outcome, find_causes(layers, model.training))
