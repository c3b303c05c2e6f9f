"""What `precision=bfloat16` and `compile=true` change: `python -m tests.benchmarks.options`.

The time of a step, and the test accuracy after an epoch, over several seeds. Under `torch.compile` the layer's kernel
stands in the graph as an operator. The alternative is also measured: plain tensor operations, which the compiler fuses
with their neighbours.
"""

import functools
from collections.abc import Callable
from unittest import mock

from labml_bn.cli.command import run_command
from labml_bn.norm.kernels import operators
from labml_bn.training import loop
from labml_bn.training.forward import make_forward
from tests.benchmarks.command import run_part
from tests.benchmarks.epoch import Images, run_ours
from tests.benchmarks.fast import interval
from tests.benchmarks.measuring import Measurements, Options, compare, interleaved
from tests.benchmarks.step import prepare

DEFAULTS = "the defaults"
VARIANTS = {
    DEFAULTS: (),
    "precision=bfloat16": ("precision=bfloat16",),
    "compile=true": ("compile=true",),
    "compile=true precision=bfloat16": ("compile=true", "precision=bfloat16"),
}
PLAIN = "compile=true, the layers as plain operations"
BATCH_SIZES = (64, 256)


def measure(options: Options) -> Measurements:
    """The steps, then the epochs."""
    for size in BATCH_SIZES[:1] if options.quick else BATCH_SIZES:
        calls = {name: step(size, options, *variant) for name, variant in VARIANTS.items()}
        calls[PLAIN] = in_plain_operations(step(size, options, "compile=true"))
        least, most = (2, 2) if options.quick else (100, 1000)
        times = interleaved(calls, warm_up=1 if options.quick else 10, least=least, most=most, seconds=20)
        for name in list(VARIANTS)[1:]:
            yield compare(f"a step, batch {size}, {name}", DEFAULTS, times[name], times[DEFAULTS])
        yield compare(f"a step, batch {size}, compile=true", PLAIN, times["compile=true"], times[PLAIN])
    few = Images(options.data, train=640, test=200)
    for name, variant in VARIANTS.items():
        seeds = range(1, 2 if options.quick else 6)
        runs = [
            run_ours(few if options.quick else Images(options.data), *variant, f"seed.seed={seed}") for seed in seeds
        ]
        yield (
            f"{name}: test accuracy after an epoch {interval([run.accuracy for run in runs])} over {len(runs)} seeds, "
            f"loop {min(run.loop for run in runs):.1f} s"
        )


def step(size: int, options: Options, *variant: str) -> Callable[[], object]:
    """A function that takes a step on the first batch of a run."""
    c, images, labels = prepare(size, options, *variant)
    return functools.partial(loop.train_step, c.model, c.optimizer, images, labels, forward=make_forward(c))


def in_plain_operations(call: Callable[[], object]) -> Callable[[], object]:
    """The same compiled step with the kernel of plain tensor operations."""
    return mock.patch.object(operators, "is_supported", _never)(call)


def _never(x: object) -> bool:  # a mock could not be compiled
    return False


if __name__ == "__main__":
    run_command(lambda: run_part("options", __doc__, measure))
