"""PyTorch's OpenMP library, whose threads also run the loops of `cpu_loops.py`."""

import ctypes
from pathlib import Path

import torch


def find() -> ctypes.CDLL | None:
    """The library in which the functions of GNU OpenMP are found; None if PyTorch was built with another OpenMP."""
    for path in Path(torch.__file__).parent.glob("lib/libtorch_cpu.*"):
        library = ctypes.CDLL(str(path))  # a lookup also finds the symbols of the libraries that it was linked with
        if hasattr(library, "GOMP_parallel"):
            return library
    return None
