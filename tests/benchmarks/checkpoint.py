"""The time to save a checkpoint relative to an epoch of the defaults: `python -m tests.benchmarks.checkpoint`.

Both are measured in one process: the median of 20 saves with fsync, and an epoch with its evaluations. The run is
written to a temporary folder in the working directory: the system's temporary folder may be in memory.
"""

import contextlib
import io
import statistics
import tempfile
import time

from labml_bn.cli.command import run_command
from labml_bn.records.folder import list_checkpoints
from labml_bn.training import checkpoint, loop, tracking
from labml_bn.training.console import Console
from tests.benchmarks.command import run_part
from tests.benchmarks.measuring import Measurements, Options, Row


def measure(options: Options) -> Measurements:
    """An epoch, then the saves."""
    with tempfile.TemporaryDirectory(dir=".") as folder, contextlib.redirect_stdout(io.StringIO()):
        settings = {"epochs": 1, "checkpoint_interval": 1e6, "logs_path": folder, "data_path": str(options.data)}
        settings |= {"device.use_cuda": False}
        settings |= {"train_samples": 640, "valid_samples": 200} if options.quick else {}
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
            (saved,) = list_checkpoints(run)
            size = saved.stat().st_size
    save = statistics.median(saves)
    yield Row(
        f"a checkpoint of {size / 1e6:.1f} MB", f"an epoch of {len(c.train_set)} images", save / epoch, save, epoch
    )
    yield f"the slowest of {len(saves)} checkpoints took {max(saves) * 1e3:.1f} ms"


if __name__ == "__main__":
    run_command(lambda: run_part("checkpoint", __doc__, measure))
