"""Commands in processes of their own, with limits of time and memory, after the packages are imported once.

Run as a program, it reads cases from standard input and prints the outcome of each: torch takes longer to import than
most cases take.
"""

import json
import os
import resource
import runpy
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

#: No case takes as long, in seconds; without its limits, many a one would take forever.
SECONDS = 60

#: No case takes as much memory beyond that of the imported packages, in bytes.
MEMORY = 1 << 30


@dataclass(frozen=True)
class Outcome:
    """The exit status of a command (negative: the signal that ended it), what it printed, and its largest size."""

    status: int
    out: str
    err: str
    memory: int


def outcomes(cases: Sequence[Sequence[str]], work: Path, environment: dict[str, str]) -> list[Outcome]:
    """The outcome of `python -m labml_bn.NAME ARGUMENTS` in the folder `work` for each case."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.hostile.processes"],
        input=json.dumps([str(work), cases]),
        cwd=Path(__file__).parents[2],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    return [Outcome(**json.loads(line)) for line in done.stdout.splitlines()]


def _outcome(case: Sequence[str]) -> Outcome:
    files = [os.memfd_create(name) for name in ("out", "err")]
    child = os.fork()
    if child == 0:
        os.dup2(files[0], 1)
        os.dup2(files[1], 2)
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + 4 * MEMORY, resource.RLIM_INFINITY))
        signal.alarm(SECONDS)
        name, *arguments = case
        sys.argv = [name, *arguments]
        status = 70
        try:
            runpy.run_module(f"labml_bn.{name}", run_name="__main__", alter_sys=False)
        except SystemExit as end:
            status = end.code if isinstance(end.code, int) else 71
        except BaseException:
            import traceback

            traceback.print_exc()
        sys.stdout.flush()
        os._exit(status)
    _, ended, usage = os.wait4(child, 0)
    out, err = (_content(file) for file in files)
    return Outcome(os.waitstatus_to_exitcode(ended), out, err, usage.ru_maxrss * 1024)


def _content(file: int) -> str:
    os.lseek(file, 0, os.SEEK_SET)
    with os.fdopen(file, "rb") as content:
        return content.read(1 << 20).decode(errors="backslashreplace")


def main() -> None:
    """Read the cases, and print the outcomes."""
    work, cases = json.load(sys.stdin)
    import labml_bn.records.comparison.by_setting
    import labml_bn.trained.evaluation
    import labml_bn.trained.exporting
    import labml_bn.trained.prediction
    import labml_bn.training.run  # noqa: F401

    os.chdir(work)
    for case in cases:
        print(json.dumps(asdict(_outcome(case))), flush=True)


if __name__ == "__main__":
    main()
