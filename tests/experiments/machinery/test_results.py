"""A result has what it was made of, its means are SciPy's, and the table has every experiment."""

import json
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
from PIL import Image
from tqdm import tqdm

from experiments.laboratory import HOLDS
from experiments.machinery import catalogue, results
from experiments.machinery.trials import Trials


@pytest.fixture
def result(folder: Path) -> results.Result:
    trials = Trials(catalogue.find("bias"), 3, {"batch": 16, "channels": 4}, Path("logs"))
    trials.measure(3, tqdm(disable=True))
    return results.write(trials, folder / "out", "python -m experiments.bias --quick")


def test_result(result: results.Result, folder: Path) -> None:
    stored = json.loads((folder / "out" / "bias.json").read_text())
    assert stored["verdict"] == HOLDS
    assert stored["claim"] == catalogue.find("bias").claim
    assert list(stored["seeds"]) == ["1", "2", "3"]
    for name, summary in stored["numbers"].items():
        values = [seed[name] for seed in stored["seeds"].values()]
        low, high = scipy.stats.t.interval(0.95, 2, np.mean(values), scipy.stats.sem(values))
        assert (summary["mean"], summary["low"], summary["high"]) == pytest.approx((np.mean(values), low, high))
    with Image.open(folder / "out" / "bias.png") as image:
        assert image.size[0] >= 600


def test_the_table_has_what_was_run_and_what_was_not(result: results.Result, folder: Path) -> None:
    text = results.write_table(folder / "out").read_text()
    rows = [line for line in text.splitlines() if line.startswith("| ") and "---" not in line][1:]
    assert len(rows) == len(catalogue.entries())
    (row,) = [row for row in rows if "experiments.bias" in row]
    assert "**holds**" in row
    assert "[figure](bias.png)" in row
    assert all(results.NOT_YET_RUN in other for other in rows if other != row)


def test_committed_results_are_of_the_default_size() -> None:
    """Those that there are: in size and seeds, with a figure and the verdict of the present rule."""
    from experiments.laboratory import verdict
    from experiments.machinery.trials import found

    for entry in catalogue.entries():
        if not (content := results.read(results.RESULTS, entry.name)):
            continue
        experiment = entry.load()
        assert content["size"] == json.loads(json.dumps(dict(experiment.size))), entry.name
        assert len(content["seeds"]) >= experiment.seeds, entry.name
        seeds = {int(seed): {"measured": measured} for seed, measured in content["seeds"].items()}
        assert content["verdict"] == verdict(experiment.judge(found(seeds))), entry.name
        assert (results.RESULTS / f"{entry.name}.png").is_file()


def test_nothing_is_read_from_a_damaged_result(tmp_path: Path) -> None:
    (tmp_path / "bias.json").write_text('{"verdict": ')
    assert results.read(tmp_path, "bias") == results.read(tmp_path, "nothing") == {}
