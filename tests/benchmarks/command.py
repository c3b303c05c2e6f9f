"""What the commands of the benchmarks share: their arguments, and how one part is run alone."""

import json
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from datetime import date
from pathlib import Path

from labml_bn.cli.command import Parser
from tests.benchmarks.machine import others_since, require_idle, usage
from tests.benchmarks.measuring import Measurements, Options, Row
from tests.benchmarks.report import Result, as_text


def parser(module: str, docstring: str | None) -> Parser:
    """The arguments of `python -m MODULE`."""
    arguments = Parser(module, docstring)
    arguments.add_argument("--quick", action="store_true", help="only see that it works; not a measurement")
    arguments.add_argument("--anyway", action="store_true", help="measure although other processes use the CPU")
    arguments.add_argument("--repeats", type=positive, default=3, metavar="N", help="runs of each program (default: 3)")
    arguments.add_argument(
        "--data", type=Path, default=Path("data"), metavar="DIR", help="the folder of the data sets (default: data)"
    )
    return arguments


def positive(text: str) -> int:
    """A positive integer. Raises ValueError, which the parser reports."""
    if int(text) < 1:
        raise ValueError(text)
    return int(text)


def check_load(*, tolerate: bool) -> None:
    """Raise UserError if other processes use the CPU, or print a warning if that is to be tolerated."""
    complaint = require_idle(refuse=not tolerate)
    if complaint:
        print(f"warning: {complaint}; the results mean nothing", file=sys.stderr)


def warn_if_quick(quick: bool) -> None:
    """Print that the table is not a measurement, after one that looks like it."""
    if quick:
        print("warning: --quick measures too little; these numbers are not a result", file=sys.stderr)


def run_part(part: str, docstring: str | None, measure: Callable[[Options], Measurements]) -> None:
    """The command of one part: measure, and print the table.

    With `--json FILE` the result is written there instead. `python -m tests.benchmarks`, which has checked the load
    itself, runs each part in this way, in a process of its own.
    """
    arguments = parser(f"tests.benchmarks.{part}", docstring)
    arguments.add_argument(
        "--json", type=Path, metavar="FILE", help="write the result to FILE; the load is not checked"
    )
    given = arguments.parse_args()
    if given.json is None:
        check_load(tolerate=given.quick or given.anyway)
    result = measured(measure(Options.of(given)))
    if given.json is None:
        print(as_text({part: result}))
        warn_if_quick(given.quick)
    else:
        given.json.write_text(json.dumps(asdict(result)), encoding="utf-8")


def measured(measurements: Measurements) -> Result:
    """Collect what a part measures, and print each row's ratio to stderr as it comes."""
    used, started = usage(), time.monotonic()
    rows: list[Row] = []
    notes: list[str] = []
    for item in measurements:
        if isinstance(item, str):
            notes.append(item)
            continue
        rows.append(item)
        if item.ratio is not None:
            print(f"{item.what}, relative to {item.against}: {item.ratio:.3g}", file=sys.stderr, flush=True)
    today = date.today().isoformat()
    return Result(today, round(time.monotonic() - started, 1), others_since(used), rows, notes)
