import json
import re
from pathlib import Path

import pytest

from experiments.laboratory import verdict
from experiments.machinery import catalogue, results, trials
from experiments.machinery.catalogue import Entry
from experiments.machinery.results import RESULTS
from experiments.machinery.trials import Trials
from tests.experiments.machinery.conftest import Lab

BIAS = catalogue.find("bias")
MEASURED = {
    f"{kind}: {what}": 1e-7
    for kind in ("convolution", "linear")
    for what in ("change of the output", "gradient of the bias")
}


def some(seeds: int, change: float) -> Trials:
    """Seeds of the experiment on biases, with a change of the output that they have measured."""
    of = Trials(BIAS, seeds, {"batch": 16}, Path("logs"))
    for seed in range(1, seeds + 1):
        measured = {**MEASURED, "linear: change of the output": change}
        trials.store(of.folder / f"{seed}.json", {"measured": measured, "started": seed, "ended": seed + 2})
    return of


def test_a_result() -> None:
    """Its verdict is computed from the numbers."""
    result = results.write(some(3, 1e-7), Path("folder"), "a command")
    assert json.loads(Path("folder/bias.json").read_text())["verdict"] == result["verdict"] == "holds"
    assert (result["seconds"], result["command"]) == (4, "a command")
    assert result["criteria"][2]["text"] == "linear: change of the output: 1e-07 (± 0, n = 3), claimed below 6e-05"
    assert Path("folder/bias.png").read_bytes().startswith(b"\x89PNG")
    assert results.write(some(3, 1.0), Path("folder"), "")["verdict"] == "does not hold"
    assert results.write(some(1, 1e-7), Path("folder"), "")["verdict"] == "undecided"
    assert results.read(Path("folder"), "bias")["verdict"] == "undecided"


def test_the_table() -> None:
    """Experiments without a result are in it."""
    results.write(some(3, 1e-7), Path("folder"), "python -m experiments.bias")
    assert results.write_table(Path("folder")) == Path("folder/RESULTS.md")
    lines = Path("folder/RESULTS.md").read_text().splitlines()
    (row,) = [line for line in lines if line.startswith("| 3 ")]
    cells = [cell.strip() for cell in row.split(" | ")]
    assert cells[1:3] == [BIAS.claim, "Ioffe & Szegedy 2015, §3.2"]
    assert cells[4:] == ["**holds**", "[figure](bias.png)", "`python -m experiments.bias`", "4.0 s |"]
    others = [line for line in lines if "not yet run" in line]
    assert len(others) == len(catalogue.entries()) - 1
    assert re.search(r"Measured on: CPU .+, cores \d+, Python .+, torch .+\.", "\n".join(lines))


@pytest.mark.slow
def test_all(lab: Lab) -> None:
    """Experiments that have a result of this code are not measured again."""
    for entry in catalogue.entries():
        if entry.name != "bias":
            size = {**entry.load().size, **entry.load().quick}
            key = Trials(entry, 1, size, Path("logs")).key
            seeds: dict[str, object] = {"1": {}, "2": {}, "3": {}}
            content = {"key": key, "seeds": seeds, "verdict": "holds", "criteria": [], "command": "", "seconds": 1.0}
            content["machine"] = {}
            trials.store(Path("logs/experiments/quick") / f"{entry.name}.json", content)
    done = lab("--all", "--quick")
    assert (done.returncode, done.stderr) == (0, "")
    assert "scale: already measured with this code" in done.stdout
    assert done.stdout.splitlines()[-1] == "Results: logs/experiments/quick/RESULTS.md"
    assert "bias.png" in Path("logs/experiments/quick/RESULTS.md").read_text()


@pytest.mark.parametrize("entry", catalogue.entries(), ids=lambda entry: entry.name)
def test_committed_results_are_those_of_the_committed_code(entry: Entry) -> None:
    """The seeds were measured by this code, and by its rule their verdict is the one that is reported."""
    result = results.read(RESULTS, entry.name)
    if not result:
        pytest.skip("not yet run")
    experiment = entry.load()
    size = json.loads(trials.dumped(experiment.size))
    assert result["size"] == size
    assert len(result["seeds"]) >= experiment.seeds
    assert result["key"] == Trials(entry, 1, size, Path()).key
    criteria = experiment.judge(trials.found({n: {"measured": of} for n, of in enumerate(result["seeds"].values())}))
    assert result["verdict"] == verdict(criteria)
    assert [each["text"] for each in result["criteria"]] == [str(each) for each in criteria]
