"""The passes over the data: what the inputs of each layer are, and what the network gives with which statistics.

1. over the training data, as in training: every layer normalizes by the batch, and its inputs are measured
2. over the training data, in evaluation: with the running statistics, with the population's in all layers, and with the
   population's in one layer alone, for each; and once more as in training
3. over the evaluation data, in evaluation: with the running statistics and with the population's

The population's statistics are the averages over the batches of pass 1, as in
`estimate_population(estimator="batches")`. They do not depend on the running statistics: a fault of one layer does not
show in the layers after it.
"""

import math
from collections import Counter
from collections.abc import Container, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parameter import is_lazy

from labml_bn.norm.batch_norm import check_channels
from labml_bn.norm.batches import Batches, call, number_of_samples
from labml_bn.norm.diagnosis.moments import InputMoments, Shift, Statistics
from labml_bn.norm.diagnosis.outcomes import Loss, Outcomes
from labml_bn.norm.diagnosis.undisturbed import same_random_numbers, undisturbed
from labml_bn.norm.hooks import forward_pre_hook
from labml_bn.norm.masking import counts_none


class LayerInputs:
    """What the passes find at one layer.

    running, updates: its running statistics, and how many batches they have averaged, None if it is not counted
    by_call: the moments for each call within a forward pass, as in training; none if the network does not call it
    trained, evaluated: the moments in evaluation with the population's statistics, of the training and evaluation data
    """

    def __init__(self, layer: _BatchNorm) -> None:
        assert layer.running_mean is not None
        assert layer.running_var is not None
        self.layer = layer
        self.frozen = bool(getattr(layer, "frozen", False))  # normalizes by the running statistics in training too
        self.running = Statistics(layer.running_mean, layer.running_var)
        self.updates = None if layer.num_batches_tracked is None else int(layer.num_batches_tracked)
        self.by_call: list[InputMoments] = []
        # Evaluation accepts batches of one value per channel, of which only the biased variance exists.
        self.trained, self.evaluated = InputMoments(unbiased=False), InputMoments(unbiased=False)
        self._from_batch: list[tuple[float, float]] = []

    def add(self, x: Tensor, mask: Tensor | None, call: int, samples: int) -> None:
        """Add the input and mask of a call, by its number in the forward pass, for a batch of so many samples.

        Raises ValueError if the input is not one for this layer.
        """
        if call == len(self.by_call):
            self.by_call.append(InputMoments(unbiased=getattr(self.layer, "unbiased", True)))
        batch = self.by_call[call].add(x, samples, mask)
        check_channels(x, *self.running)
        shift = Shift.between(self.running, batch, self.layer.eps)
        self._from_batch.append((shift.mean**2, math.log(shift.var) ** 2))

    @property
    def population(self) -> Statistics:
        """The averages over the batches, and over the calls."""
        means, variances = zip(*(moments.average() for moments in self.by_call), strict=True)
        return Statistics(torch.stack(means).mean(0), torch.stack(variances).mean(0))

    @property
    def from_batch(self) -> Shift:
        """How far the running statistics are from a batch's: the root mean square over the batches."""
        mean, log_ratio = (sum(squares) / len(squares) for squares in zip(*self._from_batch, strict=True))
        return Shift.of_squares(mean, log_ratio)


class Passes:
    """The passes with one network, which is afterwards as it was before, bit by bit.

    layers: what was found at each normalization layer, by name
    outcomes: those of the choices `running`, `population` (in all layers), `batch` (as in training), the name of each
        layer (the population's in this layer alone), and with a loss and evaluation data `evaluation` (running)
    """

    def __init__(self, model: nn.Module, batches: Batches, evaluation: Batches | None, loss: Loss | None) -> None:
        self.layers = {name: LayerInputs(layer) for name, layer in normalization_layers(model).items()}
        self.outcomes = Outcomes(loss)
        self._model = model
        self._inputs = {inputs.layer: inputs for inputs in self.layers.values()}
        self._population: dict[_BatchNorm, Statistics] = {}
        self._samples = 0  # in the current batch
        batches = list(batches) if isinstance(batches, Iterator) else batches
        with undisturbed(model):
            self._measure(batches)
            self._compare(batches)
            if evaluation is not None:
                self._evaluate(evaluation)

    def _measure(self, batches: Batches) -> None:
        """Pass 1."""
        calls = Counter[_BatchNorm]()

        def add(layer: _BatchNorm, x: Tensor, mask: Tensor | None) -> None:
            if not counts_none(x, mask):
                self._inputs[layer].add(x, mask, calls[layer], self._samples)
                calls[layer] += 1

        with same_random_numbers(self._model), forward_pre_hook(self._inputs, add):
            for x, _ in self._split(batches):
                calls.clear()
                self._forward(x, as_in_training=True)
        called = [inputs for inputs in self._inputs.values() if inputs.by_call]
        if not called:
            raise ValueError("there are no batches, or they reach no batch normalization layer")
        self._population = {inputs.layer: inputs.population for inputs in called if not inputs.frozen}

    def _compare(self, batches: Batches) -> None:
        """Pass 2."""
        with same_random_numbers(self._model):
            for x, target in self._split(batches):
                reference = self._forward(x)
                outputs = {"running": reference, "batch": self._forward(x, as_in_training=True)}
                with forward_pre_hook(self._inputs, self._add_trained):
                    outputs["population"] = self._forward(x, self._population)
                for choice, output in outputs.items():
                    self.outcomes.add(choice, output, reference, target, self._samples)
                for name, inputs in self.layers.items():
                    if inputs.layer in self._population:
                        output = self._forward(x, {inputs.layer})
                        self.outcomes.add(name, output, reference, target, self._samples)

    def _evaluate(self, evaluation: Batches) -> None:
        """Pass 3."""
        has_batches = False
        with same_random_numbers(self._model):
            for x, target in self._split(evaluation):
                has_batches = True
                if self.outcomes.loss is not None:
                    output = self._forward(x)
                    self.outcomes.add("evaluation", output, output, target, self._samples)
                with forward_pre_hook(self._inputs, self._add_evaluated):
                    self._forward(x, self._population)
        if not has_batches:
            raise ValueError("there are no batches of evaluation data")

    def _add_trained(self, layer: _BatchNorm, x: Tensor, mask: Tensor | None) -> None:
        if not counts_none(x, mask):
            self._inputs[layer].trained.add(x, self._samples, mask)

    def _add_evaluated(self, layer: _BatchNorm, x: Tensor, mask: Tensor | None) -> None:
        if not counts_none(x, mask):
            self._inputs[layer].evaluated.add(x, self._samples, mask)

    def _forward(self, x: Any, population: Container[_BatchNorm] = (), *, as_in_training: bool = False) -> Any:
        """The output with the `population`'s statistics in these layers, and the running ones in all others.

        The running statistics matter in training too, for layers with batch renormalization. Training has updated them.
        """
        for layer, inputs in self._inputs.items():
            statistics = self._population[layer] if layer in population else inputs.running
            assert layer.running_mean is not None
            assert layer.running_var is not None
            layer.running_mean.copy_(statistics.mean)
            layer.running_var.copy_(statistics.var)
            if layer.num_batches_tracked is not None and inputs.updates is not None:
                layer.num_batches_tracked.fill_(inputs.updates)
            layer.training = as_in_training and not inputs.frozen
        return call(self._model, x)

    def _split(self, batches: Batches) -> Iterator[tuple[Any, Any]]:
        """The input and the target of each batch that is not empty."""
        for batch in batches:
            parts = batch if isinstance(batch, tuple | list) else (batch,)
            if not parts or not _is_input(parts[0]):
                raise TypeError(
                    "expected batches of inputs, tensors [batch, *] or mappings of keyword arguments with one, or "
                    f"tuples that begin with an input, got {_shape(batch)}"
                )
            if self.outcomes.loss is not None and len(parts) < 2:
                raise ValueError(f"expected batches (input, target) for the loss, got {_shape(batch)} without a target")
            self._samples = number_of_samples(parts[0])
            if self._samples > 0:
                yield parts[0], parts[1] if len(parts) > 1 else None


def _is_input(x: Any) -> bool:
    tensors = x.values() if isinstance(x, Mapping) else (x,)
    return any(isinstance(tensor, Tensor) and tensor.dim() > 0 for tensor in tensors)


def _shape(value: Any) -> str:
    """A value in words: the shape of a tensor, or the type of another."""
    if isinstance(value, Tensor):
        return f"a tensor of shape {tuple(value.shape)}"
    if isinstance(value, Mapping):
        return f"{type(value).__name__} of {', '.join(map(_shape, value.values())) or 'nothing'}"
    if isinstance(value, tuple | list):
        return f"{type(value).__name__} of {', '.join(map(_shape, value)) or 'nothing'}"
    return type(value).__name__


def normalization_layers(model: nn.Module) -> dict[str, _BatchNorm]:
    """The normalization layers by name. Raises ValueError if there are none, or one has no running statistics."""
    layers = {name: layer for name, layer in model.named_modules() if isinstance(layer, _BatchNorm)}
    if not layers:
        raise ValueError(f"the network ({type(model).__name__}) has no batch normalization layer")
    for name, layer in layers.items():
        if layer.running_mean is None or layer.running_var is None:
            raise ValueError(
                f"layer {name!r} with {layer.num_features} channels keeps no running statistics "
                "(track_running_stats=False): in evaluation, it normalizes by the batch, as in training"
            )
        if is_lazy(layer.running_mean):
            raise ValueError(f"layer {name!r} does not know its channels yet: call the network with a batch first")
        shapes = tuple(layer.running_mean.shape), tuple(layer.running_var.shape)
        if shapes != ((layer.num_features,),) * 2:
            raise ValueError(
                f"layer {name!r} has running statistics of shapes {shapes[0]} and {shapes[1]}, not "
                f"{(layer.num_features,)}"
            )
    return layers
