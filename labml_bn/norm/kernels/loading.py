"""The import of the kernel for a type of device, which may need what is not installed or does not work."""

import functools
import importlib
import warnings
from types import ModuleType


@functools.cache
def load(device: str) -> ModuleType | None:
    """The kernel for a type of device; None if there is none, or, after a warning, if what it needs does not work."""
    if device not in ("cpu", "cuda"):
        return None
    try:
        return importlib.import_module(f"labml_bn.norm.kernels.{device}")
    except Exception as error:  # a broken installation can raise anything
        warnings.warn(f"batch normalization uses its slower reference kernel: {error!r}", stacklevel=2)
        return None
