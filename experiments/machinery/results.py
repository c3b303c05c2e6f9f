"""The result of an experiment, as JSON beside its figure; and the table of all of them, `RESULTS.md`."""

import contextlib
import json
import os
import platform
import textwrap
from collections.abc import Mapping
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments.machinery.catalogue import FOLDER, entries
from labml_bn.cli.errors import os_errors_as
from labml_bn.cli.files import replacing
from labml_bn.cli.text import duration

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

    from experiments.machinery.trials import Trials

#: The results that are committed: of the default size, with at least the default number of seeds.
RESULTS = FOLDER / "results"

NOT_YET_RUN = "not yet run"

Result = Mapping[str, Any]


def read(folder: Path, name: str) -> Result:
    """The result of an experiment, empty if there is none."""
    with contextlib.suppress(FileNotFoundError, ValueError):
        content: Result = json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))
        return content
    return {}


def write(trials: "Trials", folder: Path, command: str) -> Result:
    """Judge and draw what the seeds have measured, and store both in a folder. Raises UserError if that fails."""
    from experiments import laboratory
    from experiments.machinery import trials as measuring
    from labml_bn.records import figures

    entry, stored = trials.entry, trials.stored()
    experiment, found = entry.load(), measuring.found(stored)
    criteria = experiment.judge(found)
    result = {
        "claim": entry.claim,
        "source": entry.source,
        "verdict": laboratory.verdict(criteria),
        "criteria": [
            {"outcome": each.outcome, "text": str(each), **vars(each.found), "bounds": each.bounds} for each in criteria
        ],
        "command": command,
        "date": datetime.now(timezone.utc).isoformat(timespec="minutes"),
        "seconds": round(measuring.seconds(stored), 1),
        "machine": _machine(),
        "size": trials.size,
        "key": trials.key,
        "numbers": {name: _summary(values) for name, values in found.items()},
        "seeds": {seed: each["measured"] for seed, each in stored.items()},
    }
    measuring.store(folder / f"{entry.name}.json", result)
    figure = experiment.draw(found)
    _explain(figure, f"Claim {entry.number}: {entry.claim}", result, command)
    figures.save(figure, folder / f"{entry.name}.png")
    return result


def _summary(values: "NDArray[Any]") -> Result:
    """The means over the seeds and their intervals, of values [seeds, ...]."""
    from labml_bn.records.comparison.estimates import mean_curve

    ends = [each.reshape(values.shape[1:]) for each in mean_curve(values.reshape(len(values), -1))]
    return {"n": len(values), **dict(zip(("mean", "low", "high"), ends, strict=True))}


def _explain(figure: "Figure", claim: str, result: Result, command: str) -> None:
    """Write on a figure what it is about, and what came out."""
    width = int(figure.get_figwidth() * 12)
    lines = [f"{each['text']}: {each['outcome']}" for each in result["criteria"]]
    lines += [f"Means over the seeds, with 95 % intervals (Student's t). {command}"]
    figure.suptitle(textwrap.fill(f"{claim}: {result['verdict']}", width))
    figure.supxlabel("\n".join(textwrap.fill(line, int(1.25 * width)) for line in lines), fontsize=8)


def _machine() -> dict[str, Any]:
    """What the numbers depend on besides the code."""
    lines: list[str] = []
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return {
        "CPU": models[0] if models else platform.processor() or platform.machine(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "Python": platform.python_version(),
        "torch": metadata.version("torch"),
    }


def write_table(folder: Path) -> Path:
    """Write `RESULTS.md` from the results in a folder: beside it if it is the committed one, else in it."""
    path = (folder.parent if folder == RESULTS else folder) / "RESULTS.md"
    figures = "results/" if folder == RESULTS else ""
    rows, machines, pictures = [], [], []
    for entry in entries():
        result = read(folder, entry.name)
        cells = [f"[{entry.number}]({entry.name}.py)" if figures else str(entry.number), entry.claim, entry.source]
        if result:
            numbers = "<br>".join(f"{each['text']}: {each['outcome']}" for each in result["criteria"])
            figure = f"{figures}{entry.name}.png"
            cells += [numbers, f"**{result['verdict']}**", f"[figure]({figure})"]
            cells += [f"`{result['command']}`", duration(result["seconds"])]
            machines.append(", ".join(f"{name} {value}" for name, value in result["machine"].items()))
            pictures.append(f"![Claim {entry.number}: {entry.claim}]({figure})")
        else:
            cells += ["", NOT_YET_RUN, "", f"`python -m experiments.{entry.name}`", ""]
        rows.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    heading = [
        "",
        "claim",
        "source",
        "measured, with the 95 % interval over n seeds",
        "verdict",
        "figure",
        "command",
        "time",
    ]
    lines = [
        "# Results of the experiments",
        "",
        "Written by `python -m experiments --all` from the JSON files in `results/`, with the numbers of each seed.",
        "Each verdict is computed by the rule in the experiment's file.",
        "",
        "| " + " | ".join(heading) + " |",
        "| --- " * len(heading) + "|",
        *rows,
        "",
        *(f"Measured on: {machine}." for machine in dict.fromkeys(machines)),
        "",
        "\n\n".join(pictures),
    ]
    with os_errors_as(f"cannot write {path}"), replacing(path) as part:
        part.write_text("\n".join(lines).rstrip() + "\n", encoding="utf-8")
    return path


def listing(folder: Path) -> list[list[Any]]:
    """The rows of `python -m experiments`: each experiment with its claim, cost and last verdict."""
    rows: list[list[Any]] = [["experiment", "cost", "verdict", "claim"]]
    for entry in entries():
        result = read(folder, entry.name)
        cost = duration(result["seconds"]) if result else "?"
        rows.append([entry.name, cost, result.get("verdict", NOT_YET_RUN), entry.claim])
    return rows
