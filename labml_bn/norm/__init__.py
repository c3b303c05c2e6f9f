"""The layer: batch normalization in PyTorch, from the paper's equations.

Read `kernels/reference.py` (the equations), then `functional.py` (the gradient), then `batch_norm.py` (the module).
"""

from labml_bn.norm.batch_norm import BatchNorm

__all__ = ["BatchNorm"]
