"""The forward pass of a training step: in bfloat16, compiled, and what is reported where that does not work."""

import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend

from labml_bn.cli.errors import UserError
from labml_bn.training.forward import check_compiler, make_forward
from labml_bn.training.parts import Configs


def configs(**settings: object) -> Configs:
    torch.manual_seed(0)
    c = Configs()
    c._set_values({"device.use_cuda": False, **settings})
    return c


def test_by_default_it_is_the_network() -> None:
    c = configs()
    assert make_forward(c) is c.model


def test_bfloat16() -> None:
    """The activations are bfloat16, the logits and the gradients float32, and close to those in full precision."""
    c = configs(precision="bfloat16")
    dtypes = []
    c.model.get_submodule("conv2").register_forward_hook(lambda module, x, y: dtypes.append(y.dtype))
    x = torch.randn(64, 1, 28, 28)
    logits, full = make_forward(c)(x), c.model(x)
    assert dtypes == [torch.bfloat16, torch.float32]
    assert logits.dtype == torch.float32
    torch.testing.assert_close(logits, full, rtol=0, atol=0.05)
    assert not torch.equal(logits, full)
    logits.sum().backward()
    assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in c.model.parameters())


def test_two_batch_sizes_are_compiled_once_each(monkeypatch: pytest.MonkeyPatch) -> None:
    """The network keeps its names, and evaluations do not run the compiled code."""
    counter = CompileCounterWithBackend("eager")
    compile_with = torch.compile
    monkeypatch.setattr(torch, "compile", lambda model, **options: compile_with(model, backend=counter, **options))
    c = configs(compile=True)
    names = list(c.model.state_dict())
    compiled = make_forward(c)
    for size in (64, 64, 40, 64, 40, 64):
        x = torch.randn(size, 1, 28, 28)
        with torch.no_grad():
            c.model.train()
            compiled(x)
            c.model.eval()(x)
    assert counter.frame_count == 2
    assert list(c.model.state_dict()) == names
    assert c.model.get_buffer("norm1.num_batches_tracked") == 6


def test_without_a_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(function: object) -> object:
        raise RuntimeError("no compiler\n\nmuch more")

    monkeypatch.setattr(torch, "compile", failing)
    with pytest.raises(UserError, match=r"^compile=true needs .*: no compiler$"):
        check_compiler(torch.device("cpu"))
