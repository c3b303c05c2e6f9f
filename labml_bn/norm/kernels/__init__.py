"""The four operations of batch normalization, which every kernel provides; so far `reference.py` is the only one.

Batch normalization has few arithmetic operations per value, so its cost is mostly that of reading and writing memory.
If each operation is one pass over the data, as in a fused kernel, one training step reads and writes these tensors:

| operation | reads | writes |
|---|---|---|
| `moments` (forward) | x | |
| `normalize` (forward) | x | y |
| `gradient_sums` (backward) | x, dy | |
| `input_gradient` (backward) | x, dy | dx |

Each direction goes through the data twice, because each output value, and backward each input gradient, depends on all
the values of its channel. The plain tensor operations of `reference.py` also write and read intermediate results.
"""
