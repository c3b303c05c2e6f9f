"""The program with all images in memory, without normalization: `python -m tests.benchmarks.contenders.no_norm`.

It has no tracker either: the difference to ours is what normalization, tracking and checkpoints cost.
"""

from tests.benchmarks.contenders import common, in_memory

if __name__ == "__main__":
    in_memory.run(common.arguments(__doc__), normalize=False)
