"""The layer in ensembles (vmap), in functional calls, at two places of a network, and distributed by FSDP2 and DTensor.

The references are the definitions, in float64 on one process.
"""

import copy
import datetime
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_module, distribute_tensor
from torch.func import functional_call, grad, stack_module_state, vmap
from torch.multiprocessing.spawn import spawn
from torch.utils.checkpoint import checkpoint

from labml_bn.norm import BatchNorm, freeze, frozen_statistics

CHANNELS = 3
LIMIT = datetime.timedelta(minutes=2)


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def net(seed: int = 0, **options: Any) -> nn.Sequential:
    """A linear layer, then the layer, whose γ and β are not those that it starts with."""
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(4, CHANNELS), BatchNorm(CHANNELS, **options)).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_()
    return model


class Reference:
    """`net` in plain arithmetic."""

    def __init__(self, model: nn.Module, momentum: float | None = 0.1) -> None:
        self.parameters = {name: value.detach().double().clone() for name, value in model.named_parameters()}
        self.mean = torch.zeros(CHANNELS, dtype=torch.float64)
        self.var = torch.ones(CHANNELS, dtype=torch.float64)
        self.batches = 0
        self.momentum = momentum

    def __call__(self, x: Tensor, *, training: bool = True) -> tuple[Tensor, dict[str, Tensor]]:
        """The output, and the gradients of the sum of its cubes."""
        weights = {name: value.clone().requires_grad_() for name, value in self.parameters.items()}
        y = self.normalize(x @ weights["0.weight"].mT + weights["0.bias"], weights, training=training)
        gradients = torch.autograd.grad(y.pow(3).sum(), list(weights.values()))
        return y.detach(), dict(zip(weights, gradients, strict=True))

    def normalize(self, x: Tensor, weights: dict[str, Tensor], *, training: bool = True) -> Tensor:
        """The layer alone, [batch, channels, *]."""
        dims = [0, *range(2, x.dim())]
        shape = [1, CHANNELS] + [1] * (x.dim() - 2)
        mean, var = self.mean, self.var
        if training:
            count = x.numel() // CHANNELS
            mean = x.mean(dims)
            var = (x - mean.view(shape)).square().mean(dims)
            self.batches += 1
            share = 1 / self.batches if self.momentum is None else self.momentum
            self.mean = ((1 - share) * self.mean + share * mean).detach()
            self.var = ((1 - share) * self.var + share * var * count / (count - 1)).detach()
        xhat = (x - mean.view(shape)) / torch.sqrt(var + 1e-5).view(shape)
        return xhat * weights["1.weight"].view(shape) + weights["1.bias"].view(shape)

    @property
    def buffers(self) -> dict[str, Tensor]:
        return {
            "1.running_mean": self.mean,
            "1.running_var": self.var,
            "1.num_batches_tracked": torch.tensor(self.batches),
        }


@pytest.mark.parametrize("randomness", ["error", "different"])
@pytest.mark.parametrize("momentum", [0.1, None])
def test_ensemble(momentum: float | None, randomness: str) -> None:
    """Each member has its own statistics, outputs and gradients, as if it were alone."""
    models = [net(seed, momentum=momentum) for seed in range(4)]
    references = [Reference(model, momentum) for model in models]
    parameters, buffers = stack_module_state(models)
    base = copy.deepcopy(models[0]).to("meta")

    def forward(parameters: Any, buffers: Any, x: Tensor) -> Any:
        y = functional_call(base, (parameters, buffers), (x,))
        return y.pow(3).sum(), y

    for training, x in ((True, random(5, 4)), (True, random(7, 4, seed=1)), (False, random(2, 4, seed=2))):
        base.train(training)
        step = vmap(grad(forward, has_aux=True), in_dims=(0, 0, None), randomness=randomness)
        gradients, y = step(parameters, buffers, x)
        for number, reference in enumerate(references):
            expected_y, expected_gradients = reference(x, training=training)
            torch.testing.assert_close(y[number], expected_y)
            torch.testing.assert_close({name: value[number] for name, value in gradients.items()}, expected_gradients)
            torch.testing.assert_close({name: value[number] for name, value in buffers.items()}, reference.buffers)


@pytest.mark.slow
@pytest.mark.usefixtures("reset_compiler")
@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_compiled_ensemble(backend: str) -> None:
    """As one graph, which updates the stacked buffers in place."""
    models = [net(seed) for seed in range(3)]
    references = [Reference(model) for model in models]
    parameters, buffers = stack_module_state(models)

    def forward(parameters: Any, buffers: Any, x: Tensor) -> Any:
        return functional_call(models[0], (parameters, buffers), (x,)).pow(3).sum()

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecation warnings inside the compiler
        step = torch.compile(vmap(grad(forward), in_dims=(0, 0, None)), fullgraph=True, backend=backend)
        for x in (random(5, 4), random(5, 4, seed=1)):
            gradients = step(parameters, buffers, x)
            for number, reference in enumerate(references):
                _, expected = reference(x)
                torch.testing.assert_close({name: value[number] for name, value in gradients.items()}, expected)
                torch.testing.assert_close({name: value[number] for name, value in buffers.items()}, reference.buffers)


def test_ensemble_with_a_batch_for_each_member() -> None:
    models = [net(seed) for seed in range(3)]
    references = [Reference(model) for model in models]
    parameters, buffers = stack_module_state(models)
    batches = random(3, 6, 4)
    y = vmap(lambda p, b, x: functional_call(models[0], (p, b), (x,)))(parameters, buffers, batches)
    for number, reference in enumerate(references):
        torch.testing.assert_close(y[number], reference(batches[number])[0])
        torch.testing.assert_close({name: value[number] for name, value in buffers.items()}, reference.buffers)


@pytest.mark.parametrize("momentum", [0.1, None])
def test_functional_call(momentum: float | None) -> None:
    """The buffers that are passed are updated, and those of the network are not."""
    model = net(momentum=momentum)
    reference, buffers = Reference(model, momentum), {name: value.clone() for name, value in model.named_buffers()}
    for seed in range(2):
        x = random(5, 4, seed=seed)
        y = functional_call(model, (dict(model.named_parameters()), buffers), (x,))
        torch.testing.assert_close(y, reference(x)[0])
        torch.testing.assert_close(buffers, reference.buffers)
    torch.testing.assert_close(dict(model.named_buffers()), Reference(model).buffers)


def test_functional_call_that_returns_the_buffers() -> None:
    """A function without side effects, for optimizers that are functions too."""
    model = net()
    reference = Reference(model)
    parameters, buffers = dict(model.named_parameters()), dict(model.named_buffers())
    before = copy.deepcopy(buffers)

    def loss(parameters: Any, buffers: Any, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        buffers = {name: value.clone() for name, value in buffers.items()}
        return functional_call(model, (parameters, buffers), (x,)).pow(3).sum(), buffers

    for seed in range(2):
        x = random(5, 4, seed=seed)
        gradients, buffers = grad(loss, has_aux=True)(parameters, buffers, x)
        torch.testing.assert_close(gradients, reference(x)[1])
        torch.testing.assert_close(buffers, reference.buffers)
    torch.testing.assert_close(dict(model.named_buffers()), before)


@pytest.mark.parametrize("recompute", [False, True])
def test_layer_at_two_places(recompute: bool) -> None:
    """It averages the batches of both, one after the other, and its gradients are the sums over both."""
    model = net()
    layer = model[1]
    reference, x = Reference(model), random(6, CHANNELS).requires_grad_()

    def twice(x: Tensor) -> Any:
        return layer(torch.tanh(layer(x)))

    y = checkpoint(twice, x, use_reentrant=False) if recompute else twice(x)
    found = torch.autograd.grad(y.pow(3).sum(), [x, *layer.parameters()])
    other = x.detach().clone().requires_grad_()
    weights = {name: value.clone().requires_grad_() for name, value in reference.parameters.items()}
    expected_y = reference.normalize(torch.tanh(reference.normalize(other, weights)), weights)
    expected = torch.autograd.grad(expected_y.pow(3).sum(), [other, weights["1.weight"], weights["1.bias"]])
    torch.testing.assert_close(y, expected_y)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(dict(model.named_buffers()), reference.buffers)
    assert layer.num_batches_tracked == 2


@pytest.fixture
def reset_compiler() -> Iterator[None]:
    torch.compiler.reset()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecation warnings inside older torch
        yield
    torch.compiler.reset()


@pytest.mark.usefixtures("reset_compiler")
def test_copy_of_a_compiled_network() -> None:
    """The copy has statistics of its own."""
    compiled: Any = torch.compile(net(), fullgraph=True, backend="aot_eager")
    reference, x = Reference(compiled._orig_mod), random(5, 4)
    compiled(x)
    copied = copy.deepcopy(compiled)
    reference(x)
    torch.testing.assert_close(dict(copied._orig_mod.named_buffers()), reference.buffers)
    torch.testing.assert_close(copied(x), reference(x)[0])
    torch.testing.assert_close(dict(copied._orig_mod.named_buffers()), reference.buffers)
    assert compiled.get_buffer("_orig_mod.1.num_batches_tracked") == 1


def test_tensors_swapped_by_a_conversion() -> None:
    """`torch.__future__.set_swap_module_params_on_conversion`: optimizers keep their references."""
    model = net().float()
    model(random(5, 4).float()).sum().backward()
    before = list(model.parameters())
    torch.__future__.set_swap_module_params_on_conversion(True)
    try:
        model.double()
    finally:
        torch.__future__.set_swap_module_params_on_conversion(False)
    assert all(parameter is other for parameter, other in zip(model.parameters(), before, strict=True))
    x, reference = random(5, 4), Reference(model)
    torch.testing.assert_close(model(x), reference(x)[0])
    torch.utils.swap_tensors(model.get_buffer("1.running_mean"), torch.ones(CHANNELS, dtype=torch.float64))
    reference.mean = torch.ones(CHANNELS, dtype=torch.float64)
    torch.testing.assert_close(model(x), reference(x)[0])
    torch.testing.assert_close(model.get_buffer("1.running_mean"), reference.mean)


def run_distributed(test: Callable[..., None], processes: int, folder: Path) -> None:
    """Run `test(mesh)` in several processes that communicate by gloo. An error in one of them is raised here."""
    spawn(in_process, (test, processes, f"file://{folder}/rendezvous"), nprocs=processes)


def in_process(rank: int, test: Callable[..., None], processes: int, address: str) -> None:
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")  # deprecation warnings inside torch
    dist.init_process_group("gloo", init_method=address, rank=rank, world_size=processes, timeout=LIMIT)
    try:
        test(init_device_mesh("cpu", (processes,)))
    finally:
        dist.destroy_process_group()


def shard_parameters(mesh: Any) -> None:
    """FSDP2: each process has its part of each parameter, a batch of its own, and the statistics of this batch."""
    policies: list[tuple[float, dict[str, Any]]] = [
        (1e-5, {}),
        (0.1, {"param_dtype": torch.bfloat16}),
        (0.1, {"param_dtype": torch.bfloat16, "reduce_dtype": torch.float32, "output_dtype": torch.float32}),
    ]
    for tolerance, options in policies:
        for recompute in (False, True):
            model = net().float()
            references = [Reference(model) for _ in range(mesh.size())]
            whole = copy.deepcopy(model)
            for module in (*model, model):
                fully_shard(module, mesh=mesh, mp_policy=MixedPrecisionPolicy(**options))
            for step in range(2):
                batches = [random(16, 4, seed=10 * step + rank) for rank in range(mesh.size())]
                x = batches[mesh.get_local_rank()].float()
                model.zero_grad()
                y = checkpoint(model, x, use_reentrant=False) if recompute else model(x)
                y.pow(3).sum().backward()
                results = [reference(batch) for reference, batch in zip(references, batches, strict=True)]
                own_y, _ = results[mesh.get_local_rank()]
                torch.testing.assert_close(y.double(), own_y, rtol=tolerance, atol=tolerance)
                found = [p.grad.full_tensor().double().flatten() for p in model.parameters()]  # type: ignore[union-attr]
                means = [
                    torch.stack([gradients[name].flatten() for _, gradients in results]).mean(0)
                    for name, _ in model.named_parameters()
                ]
                assert (torch.cat(found) - torch.cat(means)).norm() <= tolerance * torch.cat(means).norm()
                buffers = dict(model.named_buffers())
                assert buffers["1.running_var"].dtype == torch.float32
                for name, value in references[mesh.get_local_rank()].buffers.items():
                    torch.testing.assert_close(buffers[name].to(value.dtype), value, rtol=tolerance, atol=tolerance)
            with frozen_statistics(model):
                model(x)
            state = get_model_state_dict(model, options=StateDictOptions(full_state_dict=True))
            if mesh.get_local_rank() == 0:  # the whole parameters are given to the first process
                whole.load_state_dict(state)
                assert whole.get_buffer("1.num_batches_tracked") == 2
            assert not freeze(model).train()[1].training


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
def test_fully_sharded(processes: int, tmp_path: Path) -> None:
    run_distributed(shard_parameters, processes, tmp_path)


def shard_batches(mesh: Any) -> None:
    """DTensor: the batch is the one of all processes, in whichever dimension it is split, also unevenly."""
    cases: list[dict[str, Any]] = [{}, {"momentum": None}, {"activation": "relu"}]
    for options in cases:
        for placement in (Replicate(), Shard(0), Shard(1), Shard(2)):
            for training in (True, False):
                model = net(**options).train(training)
                reference = Reference(model, options.get("momentum", 0.1))
                weights = {name: value.clone().requires_grad_() for name, value in reference.parameters.items()}
                layer: Any = distribute_module(model[1], mesh)
                full = random(7, CHANNELS, 4, 5) + 1
                x = distribute_tensor(full, mesh, [placement]).requires_grad_()
                full.requires_grad_()
                for _ in range(2):
                    y, expected = layer(x), reference.normalize(full, weights, training=training)
                expected = expected.relu() if "activation" in options else expected
                y.pow(3).sum().backward()
                dx, dweight, dbias = torch.autograd.grad(
                    expected.pow(3).sum(), [full, weights["1.weight"], weights["1.bias"]]
                )
                found = [y, x.grad, layer.weight.grad, layer.bias.grad, layer.running_mean, layer.running_var]
                assert all(isinstance(tensor, DTensor) for tensor in found)
                torch.testing.assert_close(
                    [tensor.full_tensor() for tensor in found],
                    [expected, dx, dweight, dbias, reference.mean, reference.var],
                )
                assert layer.num_batches_tracked.full_tensor() == reference.batches

    model = net()
    reference, full = Reference(model), random(8, CHANNELS)
    layer = torch.compile(distribute_module(model[1], mesh), fullgraph=True, backend="aot_eager")
    y = layer(distribute_tensor(full, mesh, [Shard(0)]))
    torch.testing.assert_close(y.full_tensor(), reference.normalize(full, reference.parameters))
    torch.testing.assert_close(layer.running_var.full_tensor(), reference.var)

    x = distribute_tensor(random(4, CHANNELS), mesh, [Shard(0)])
    with pytest.raises(RuntimeError, match=r"mixed torch\.Tensor and DTensor"):
        net()[1](x)  # this layer has not been distributed


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
def test_distributed_tensors(processes: int, tmp_path: Path) -> None:
    run_distributed(shard_batches, processes, tmp_path)
