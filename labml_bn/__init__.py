"""Batch normalization that can be read, run and watched.

    from labml_bn import BatchNorm  # the layer
    from labml_bn import load_runs  # the runs in ./logs, as a table

`python -m labml_bn.train --help` trains a network with it.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from labml_bn.norm import (
        BatchNorm,
        BatchNorm1d,
        BatchNorm2d,
        BatchNorm3d,
        convert_batch_norm,
        estimate_population,
        fold,
        freeze,
        frozen_statistics,
        restore_batch_norm,
        unfreeze,
    )
    from labml_bn.records.table import load_runs

__version__ = "0.1.0"
__all__ = [
    "BatchNorm",
    "BatchNorm1d",
    "BatchNorm2d",
    "BatchNorm3d",
    "convert_batch_norm",
    "estimate_population",
    "fold",
    "freeze",
    "frozen_statistics",
    "load_runs",
    "restore_batch_norm",
    "unfreeze",
]


def __dir__() -> list[str]:
    """What completion by the tab key shows, although it is not imported yet."""
    return sorted({*globals(), *__all__})


def __getattr__(name: str) -> Any:
    """Import the layer, and torch with it, on first use: `--help` does not wait for torch. Runs are read without it."""
    if name == "load_runs":
        from labml_bn.records import table

        return table.load_runs
    if name in __all__:
        from labml_bn import norm

        return getattr(norm, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
