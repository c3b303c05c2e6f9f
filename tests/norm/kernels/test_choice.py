"""Which kernel is chosen: the compiled one if it can be used, the reference for everything else, silently."""

import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.backends.common import aot_autograd
from torch._functorch._aot_autograd.utils import make_boxed_func
from torch.utils.flop_counter import FlopCounterMode

from labml_bn import BatchNorm
from labml_bn.norm import kernels
from labml_bn.norm.kernels import cpu, reference

X = torch.ones(4, 3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16], ids=str)
def test_compiled_loops_on_the_cpu(dtype: torch.dtype) -> None:
    with torch.no_grad():
        assert kernels.choose(X.to(dtype)) is cpu


class Subclass(Tensor):
    pass


def test_the_reference_for_everything_else() -> None:
    assert kernels.choose(X) is reference  # autograd may need to differentiate the operations
    with torch.no_grad():
        assert kernels.choose(X.to("meta")) is reference
        assert kernels.choose(X.as_subclass(Subclass)) is reference
        assert kernels.choose(X, X.as_subclass(Subclass)) is reference
        with FlopCounterMode(display=False):
            assert kernels.choose(X) is reference
        chosen = []

        def function(x: Tensor) -> Tensor:
            chosen.append(kernels.choose(x))
            return x

        torch.func.vmap(function)(X.expand(2, 4, 3))
        assert chosen == [reference]


@pytest.mark.parametrize("training", [True, False])
def test_stacked_layers_with_the_same_input(training: bool) -> None:
    """The input is an ordinary tensor, but the weights and the running statistics are vectorized."""
    layers = [BatchNorm(3).train(training) for _ in range(4)]
    for layer in layers:
        nn.init.normal_(layer.weight)
    parameters, buffers = torch.func.stack_module_state(layers)
    x = torch.randn(5, 3)

    def outputs(parameters: Any, buffers: Any) -> Any:
        return torch.func.functional_call(layers[0], (parameters, buffers), (x,))

    found = torch.func.vmap(outputs)(parameters, buffers)
    for number, layer in enumerate(layers):
        torch.testing.assert_close(found[number], layer(x))
        torch.testing.assert_close(buffers["running_var"][number], layer.running_var)


def test_a_subclass_passes_through_the_layer() -> None:
    layer = BatchNorm(3)
    x = torch.randn(4, 3).as_subclass(Subclass)
    torch.testing.assert_close(layer(x).as_subclass(Tensor), nn.BatchNorm1d(3)(x.as_subclass(Tensor)))


@pytest.mark.parametrize("missing", ["numba", "llvmlite"])
def test_without_numba(missing: str) -> None:
    """One warning, and the reference kernel."""
    code = f"""
import sys, warnings
sys.modules[{missing!r}] = None
import torch, labml_bn
layer, x = labml_bn.BatchNorm(3), torch.randn(4, 3)
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    for _ in range(3):
        layer(x).sum().backward()
torch.testing.assert_close(layer.running_mean, 1 - 0.9 ** 3 * 0 - 1 + (1 - 0.9 ** 3) * x.mean(0))
print(*[str(warning.message) for warning in caught], sep="\\n")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    (line,) = done.stdout.splitlines()
    assert line.startswith("batch normalization uses its slower reference kernel: ")
    assert done.stderr == ""


def test_a_cache_that_cannot_be_written() -> None:
    """Numba finds no folder for its cache; the loops are compiled without it."""
    code = """
import numba.core.caching
numba.core.caching.CompileResultCacheImpl._locator_classes = []
import torch, labml_bn
from labml_bn.norm import kernels
layer, x = labml_bn.BatchNorm(3), torch.randn(4, 3)
layer(x).sum().backward()
torch.testing.assert_close(layer.running_mean, 0.1 * x.mean(0))
print(kernels.choose.__name__)
"""
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "choose\n"), done.stderr


@pytest.mark.parametrize("variables", [{"OMP_THREAD_LIMIT": "2"}, {"OMP_DYNAMIC": "true"}], ids=str)
def test_fewer_threads_than_asked_for(variables: dict[str, str]) -> None:
    """All of the input is processed, however many threads OpenMP grants."""
    code = """
import torch
from labml_bn.norm.kernels import cpu, reference
torch.set_num_threads(4)
x, ones = torch.randn(64, 20, 24, 24), torch.ones(20)
for layout in (torch.contiguous_format, torch.channels_last):
    x = x.contiguous(memory_format=layout)
    torch.testing.assert_close(cpu.moments(x), reference.moments(x))
    torch.testing.assert_close(cpu.normalize(x, ones, ones, None, None), x - 1)
    torch.testing.assert_close(
        cpu.gradient_sums(x, x, ones, ones, None, None), reference.gradient_sums(x, x, ones, ones, None, None),
        rtol=1e-4, atol=1e-2,
    )
    torch.testing.assert_close(cpu.input_gradient(x, x, ones, ones, None, None, ones, ones), x - 1 - (x - 1))
y = cpu.normalize(x, ones, ones, None, None, pool=True)
torch.testing.assert_close(y, torch.nn.functional.max_pool2d(x - 1, 2))
torch.testing.assert_close(
    cpu.gradient_sums(y, x, ones, ones, None, None), (y.sum((0, 2, 3)), y.square().sum((0, 2, 3))), rtol=1e-4, atol=1e-2
)
torch.testing.assert_close(
    cpu.input_gradient(y, x, ones, ones, None, None, None, None).sum((2, 3)), y.sum((2, 3)), rtol=1e-4, atol=1e-4
)
"""
    subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ, **variables})


@pytest.mark.slow
def test_operators_under_the_compiler() -> None:
    """`torch.compile` puts the loops into its graph, forward and backward; with vmap inside, the plain operations.
    Between them, the graph asks whether the batch counts."""
    names: list[str] = []

    def record(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Callable[..., Any]:
        names.extend(str(node.target) for node in graph.graph.nodes if node.op == "call_function")
        boxed: Callable[..., Any] = make_boxed_func(graph.forward)
        return boxed

    torch.compiler.reset()
    backend = aot_autograd(fw_compiler=record, bw_compiler=record)
    layer, x = BatchNorm(3, activation="relu"), torch.randn(4, 3, 2, 2, requires_grad=True)
    torch.compile(layer, backend=backend, fullgraph=True)(x).sum().backward()
    assert [name for name in dict.fromkeys(names) if name.startswith("labml_bn")] == [
        "labml_bn.forward.default",
        "labml_bn.is_recomputation.default",
        "labml_bn.backward.default",
    ]

    names.clear()
    layer.eval()
    vectorized = torch.compile(torch.func.vmap(lambda x: layer(x)), backend=backend, fullgraph=True)
    with torch.no_grad():
        torch.testing.assert_close(vectorized(x[None])[0], layer(x))
    assert names
    assert not [name for name in names if name.startswith("labml_bn")]


@pytest.mark.slow
def test_the_compiler_without_numba() -> None:
    code = """
import sys, warnings
sys.modules["numba"] = None
import torch, labml_bn
layer, x = labml_bn.BatchNorm(3), torch.randn(4, 3)
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    y = torch.compile(layer, fullgraph=True, backend="aot_eager")(x)
torch.testing.assert_close(y, torch.nn.BatchNorm1d(3)(x))
print(*[str(warning.message) for warning in caught if "kernel" in str(warning.message)], sep="\\n")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    (line,) = done.stdout.splitlines()
    assert line.startswith("batch normalization uses its slower reference kernel: ")


def test_another_default_device() -> None:
    """The loops write to the CPU's memory, where the input is."""
    x = torch.randn(4, 3, 4, 4).contiguous(memory_format=torch.channels_last).requires_grad_()
    layer, pooling = BatchNorm(3), BatchNorm(3, max_pool=2)
    with torch.device("meta"):
        for y in (layer(x), pooling(x)):
            y.sum().backward()
            assert y.is_cpu
    assert x.grad is not None
    torch.testing.assert_close(layer.running_mean, 0.1 * x.detach().mean((0, 2, 3)))
