"""The layer: batch normalization in PyTorch, from the paper's equations.

Read `kernels/reference.py` (the equations), then `functional.py` (the gradient), then `batch_norm.py` (the module).
`population.py`, `folding.py` and `converting.py` are what one does with the layer after training.
"""

from labml_bn.norm.batch_norm import BatchNorm
from labml_bn.norm.converting import convert_batch_norm, restore_batch_norm
from labml_bn.norm.folding import fold
from labml_bn.norm.population import estimate_population

__all__ = ["BatchNorm", "convert_batch_norm", "estimate_population", "fold", "restore_batch_norm"]
