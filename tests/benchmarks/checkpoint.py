"""The time to save a checkpoint, as a fraction of an epoch of the defaults.

    python -m tests.benchmarks.checkpoint

Both are measured in one process: the median of 20 saves with fsync, and an epoch with its evaluations.
"""

import statistics
import tempfile
import time

from labml_bn.training import checkpoint, loop, tracking
from labml_bn.training.console import Console


def main() -> None:
    with tempfile.TemporaryDirectory(dir=".") as folder:
        settings = {"epochs": 1, "checkpoint_interval": 1e6, "logs_path": folder}
        c = tracking.prepare(settings)
        with tracking.recording() as run, Console(1, len(c.train_set), c.train_batch_size) as console:
            progress = loop.Progress()
            started = time.perf_counter()
            loop.train(c, console, progress)
            epoch = time.perf_counter() - started
            checkpoints = checkpoint.Checkpoints(run, c, settings)
            saves = []
            for _ in range(20):
                started = time.perf_counter()
                checkpoints.save(progress, None)
                saves.append(time.perf_counter() - started)
            (saved,) = checkpoint.list_checkpoints(run)
            size = saved.stat().st_size
    save = statistics.median(saves)
    print(f"a checkpoint of {size / 1e6:.1f} MB: {save * 1e3:.1f} ms (at most {max(saves) * 1e3:.1f})")
    print(f"an epoch: {epoch:.1f} s, so a checkpoint an epoch costs {save / epoch:.3%} of it")


if __name__ == "__main__":
    main()
