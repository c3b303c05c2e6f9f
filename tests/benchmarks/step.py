"""An optimizer step of the network, by its normalization: `python -m tests.benchmarks.step`.

The network and its optimizer are those of a run with `norm=batch_norm`, `torch` and `none`. A step is the forward and
backward pass of one batch, and the update of the parameters; selecting the batch is not part of it.
"""

import functools
import tempfile
from collections.abc import Callable

from torch import Tensor

from labml_bn.cli.command import run_command
from labml_bn.settings import read
from labml_bn.training import loop, tracking
from labml_bn.training.parts import Configs
from tests.benchmarks.command import run_part
from tests.benchmarks.measuring import Measurements, Options, compare, interleaved

NORMS = ("batch_norm", "torch", "none")
BATCH_SIZES = (64, 256)


def measure(options: Options) -> Measurements:
    """Every pair of normalizations at every batch size."""
    for size in BATCH_SIZES:
        calls = {norm: step(norm, size, options) for norm in NORMS}
        least, most = (2, 2) if options.quick else (100, 2000)
        times = interleaved(calls, warm_up=1 if options.quick else 10, least=least, most=most, seconds=20)
        for ours, theirs in (("batch_norm", "torch"), ("batch_norm", "none"), ("torch", "none")):
            yield compare(f"a step, batch {size}, norm={ours}", f"norm={theirs}", times[ours], times[theirs])


def step(norm: str, batch_size: int, options: Options) -> Callable[[], object]:
    """A function that takes a step on the first batch of a run."""
    c, images, labels = prepare(batch_size, options, f"norm={norm}")
    return functools.partial(loop.train_step, c.model, c.optimizer, images, labels)


def prepare(batch_size: int, options: Options, *settings: str) -> tuple[Configs, Tensor, Tensor]:
    """The parts of a run with these settings, and its first batch."""
    with tempfile.TemporaryDirectory() as logs:  # preparing a run writes nothing to it
        sizes = [f"train_batch_size={batch_size}", f"train_samples={batch_size}", "valid_samples=1"]
        places = [f"data_path={options.data}", f"logs_path={logs}", "device.use_cuda=false"]
        c = tracking.prepare(read([*settings, *sizes, *places]))
        images, labels = next(c.train_set.shuffled(batch_size, c.seed.seed, 0))
        return c, images, labels


if __name__ == "__main__":
    run_command(lambda: run_part("step", __doc__, measure))
