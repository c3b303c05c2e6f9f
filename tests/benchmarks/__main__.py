"""All speed measurements of the project, in one table: `python -m tests.benchmarks [--quick] [PART ...]`.

    python -m tests.benchmarks                 everything, half an hour; writes RESULTS.md, results.json, README's table
    python -m tests.benchmarks layer step      only these parts; the others in RESULTS.md are kept
    python -m tests.benchmarks --quick         only see that it works; writes nothing
    python -m tests.benchmarks.layer           one part alone; writes nothing

Every part runs in a process of its own. Nothing else should use the CPU: one busy process can make PyTorch ten times
slower.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

from labml_bn.cli.command import run_command
from labml_bn.cli.errors import UserError
from tests.benchmarks import readme
from tests.benchmarks.command import check_load, parser, warn_if_quick
from tests.benchmarks.machine import describe
from tests.benchmarks.measuring import ROOT, Options
from tests.benchmarks.report import Result, as_text, save

#: The parts, in the order in which they are run: each is a module of this package.
PARTS = ("layer", "step", "options", "epoch", "fast", "tracker", "checkpoint", "startup", "sweep")


def main() -> None:
    """The command."""
    arguments = parser("tests.benchmarks", __doc__)
    arguments.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)} (default: all)")
    given = arguments.parse_args()
    for part in given.parts:
        if part not in PARTS:
            arguments.error(f"unknown part {part!r}: the parts are {', '.join(PARTS)}")
    check_load(tolerate=given.quick or given.anyway)
    options = Options.of(given)
    results, failed = {}, []
    for part in [part for part in PARTS if part in (given.parts or PARTS)]:
        print(f"{part} ...", file=sys.stderr, flush=True)
        result = _run(part, options)
        if result is None:
            failed.append(part)
        else:
            results[part] = result
    if results:
        print(as_text(results))
        warn_if_quick(given.quick)
        if not given.quick:
            readme.write(save(Path(__file__).parent, describe(), results))
    if failed:
        raise UserError(f"failed: {', '.join(failed)}; the others are complete")


def _run(part: str, options: Options) -> Result | None:
    """Run one part in a process of its own; None if it fails."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "result.json"
        command = [sys.executable, "-m", f"tests.benchmarks.{part}", "--json", str(file), "--data", str(options.data)]
        command += ["--repeats", str(options.repeats), *(["--quick"] if options.quick else [])]
        if subprocess.run(command, cwd=ROOT, check=False).returncode != 0:
            return None
        return Result.of(json.loads(file.read_text(encoding="utf-8")))


if __name__ == "__main__":
    run_command(main)
