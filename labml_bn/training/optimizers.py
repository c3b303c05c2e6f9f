"""PyTorch's fused optimizers, without the import of `torch.compile` that comes with their first use."""

import inspect
from typing import TypeVar, cast

import torch

_Optimizer = TypeVar("_Optimizer", bound=torch.optim.Optimizer)


def _without_dynamo(optimizer: type[_Optimizer]) -> type[_Optimizer]:
    """The same optimizer, with the methods that PyTorch 2.15 wraps for `torch.compile` as they are below the wrappers.

    The wrappers import `torch._dynamo`, which takes a second. The one of `step` also disables gradients.
    """
    names = ("add_param_group", "zero_grad", "state_dict", "load_state_dict")
    methods = {name: inspect.unwrap(getattr(optimizer, name)) for name in names}
    methods["step"] = torch.no_grad()(inspect.unwrap(optimizer.step))
    return cast(type[_Optimizer], type(optimizer.__name__, (optimizer,), methods))


Adam = _without_dynamo(torch.optim.Adam)
SGD = _without_dynamo(torch.optim.SGD)
