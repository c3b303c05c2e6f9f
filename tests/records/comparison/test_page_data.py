"""What the comparison page is made of, held to the logs."""

import base64
import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.stats
from numpy.typing import NDArray

from labml_bn.records.comparison import page, page_data
from labml_bn.records.comparison.page_data import MOST_POINTS, average, make_data
from labml_bn.records.record import Record, Series, read_run, read_runs
from labml_bn.records.results import results
from labml_bn.settings import KEYS
from tests.conftest import metrics
from tests.records.comparison.varied_runs import make_sweep


@pytest.fixture(scope="module")
def sweep(full_run: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return make_sweep(full_run, tmp_path_factory.mktemp("sweep") / "logs")


def data_of(folders: list[Path]) -> dict[str, Any]:
    runs = read_runs(folders)
    data: dict[str, Any] = json.loads(page.as_json(make_data(runs, [run.metrics() for run in runs])))
    return data


def unpacked(text: str, rows: int) -> NDArray[np.float32]:
    return np.frombuffer(base64.b64decode(text), "<f4").reshape(rows, -1)


def test_curves_are_those_of_the_log(sweep: list[Path]) -> None:
    """Exactly, with every point."""
    data = data_of(sweep)
    assert data["averaged"] == {}
    for folder, run in zip(sweep, data["runs"], strict=True):
        logged = {name: points for name, points in metrics(folder).items() if len(points[0][1]) == 1}
        assert run["metrics"].keys() == logged.keys()
        for name, points in logged.items():
            assert data["steps"][run["metrics"][name]["steps"]] == [step for step, _ in points]
            assert run["metrics"][name]["values"] == [value for _, (value,) in points]
        assert run["results"] == results(read_run(folder).metrics())


def test_distributions_are_those_of_the_log(sweep: list[Path]) -> None:
    """In float32: the percentiles with minimum and maximum, and each channel."""
    data = data_of(sweep[:1])
    (run,) = data["runs"]
    logged = {name: points for name, points in metrics(sweep[0]).items() if len(points[0][1]) > 1}
    assert len(logged) == 6
    assert run["distributions"].keys() == logged.keys()
    for name, points in logged.items():
        found = run["distributions"][name]
        values = np.array([values for _, values in points])
        assert data["steps"][found["steps"]] == data["steps"][found["channelSteps"]] == [step for step, _ in points]
        expected = np.percentile(values, [0, 15, 50, 85, 100], axis=1)
        np.testing.assert_array_equal(unpacked(found["bands"], 5), expected.astype(np.float32))
        np.testing.assert_array_equal(unpacked(found["values"], len(points)), values.astype(np.float32))
        assert found["channels"] == values.shape[1]


def test_a_run_is_described(sweep: list[Path]) -> None:
    data = data_of(sweep)
    run, diverged = data["runs"][0], data["runs"][11]
    assert run["uuid"] == sweep[0].name
    assert run["settings"]["optimizer.learning_rate"] == "0.001"
    assert run["imagesPerEpoch"] == 1000
    assert (run["status"], diverged["status"]) == ("completed", "diverged")
    assert run["groupName"] == "batch_norm epochs=3 inner_iterations=4 train_samples=1000 valid_samples=500"
    assert not any("path" in key for key in run["settings"])
    assert {entry["key"] for entry in data["keys"]} == KEYS.keys() - {"data_path", "logs_path"}
    ignored = {entry["key"] for entry in data["keys"] if not entry["isCompared"]}
    assert ignored >= {"keep", "checkpoint_interval", "device.use_cuda", "device.cuda_device"}
    assert not ignored & {"seed.seed", "norm", "epochs"}


def test_students_t(sweep: list[Path]) -> None:
    quantiles = data_of(sweep)["t"]
    np.testing.assert_allclose(quantiles, scipy.stats.t.ppf(0.975, np.arange(1, 12)), rtol=1e-12)


def test_averages() -> None:
    series = Series(np.arange(1, 8) * 10, np.array([[1.0], [3], [5], [7], [9], [11], [20]]))
    found = average(series, 3)
    assert found.steps.tolist() == [20, 50, 70]
    assert found.values[:, 0].tolist() == [3, 9, 20]
    assert average(series, 1) is series


def long(run: Path, count: int) -> tuple[Record, dict[str, Series]]:
    """A run with so many validations, of a network with eight large layers."""
    random = np.random.default_rng(0)
    steps = np.arange(1, count + 1) * 64
    made = {
        "loss.train": Series(steps, random.random((count, 1))),
        "loss.test": Series(steps, random.random((count, 1))),
    }
    for layer in range(8):
        made[f"bn.norm{layer}.running_mean"] = Series(steps, random.normal(size=(count, 300)))
    return read_run(run), made


def test_long_runs(full_run: Path) -> None:
    """The page of fifty long runs is below 16 MB; what is left out is spread evenly, and the page has the number."""
    record, made = long(full_run, 600)
    runs = [dataclasses.replace(record, folder=Path(f"logs/batch_norm/{number:08}")) for number in range(50)]
    data = make_data(runs, [made] * 50)
    assert len(page.html(page.as_json(data)).encode()) < 16_000_000
    assert data["averaged"] == {"loss.train": 2}
    run = data["runs"][0]
    assert len(run["metrics"]["loss.test"]["values"]) == 600  # once an epoch: the best one is among them
    assert len(run["metrics"]["loss.train"]["values"]) == 300 <= MOST_POINTS
    np.testing.assert_allclose(run["metrics"]["loss.train"]["values"][0], made["loss.train"].values[:2].mean())
    found = run["distributions"]["bn.norm0.running_mean"]
    assert found["of"] == 600
    for name, part in (("bands", "steps"), ("values", "channelSteps")):
        steps = np.array(data["steps"][found[part]])
        assert 3 <= len(steps) < 600
        assert (steps[0], steps[-1]) == (64, 600 * 64)
        assert len(set(np.diff(steps)[:-1])) == 1
        rows = {"bands": 5, "values": len(steps)}[name]
        assert unpacked(found[name], rows).size == {"bands": 5 * len(steps), "values": 300 * len(steps)}[name]


@pytest.mark.parametrize(("length", "most"), [(1, 5), (2, 2), (10, 10), (10, 9), (11, 4), (1000, 7), (5, 1), (5, 0)])
def test_a_spread(length: int, most: int) -> None:
    found = page_data._spread(length, most).tolist()
    assert len(found) <= most
    assert found == sorted(set(found))
    if most >= 2:
        assert (found[0], found[-1]) == (0, length - 1)
        assert len(found) == length or len(found) > most / 2
    else:
        assert found == []


def test_impossible_values(full_run: Path) -> None:
    """They are not drawn, and JSON has no NaN."""
    steps = np.array([1, 2, 3])
    made = {
        "loss.train": Series(steps, np.array([[np.nan], [np.inf], [1e300]])),
        "accuracy.test": Series(steps, np.array([[0.5], [7.0], [-1.0]])),
        "bn.a.running_var": Series(steps, np.array([[1.0, 2.0], [np.nan, 1.0], [1e99, -1e300]])),
    }
    data = make_data([read_run(full_run)], [made])
    page.as_json(data)
    (run,) = data["runs"]
    assert run["metrics"]["loss.train"]["values"] == [None, None, None]
    assert run["metrics"]["accuracy.test"]["values"] == [0.5, None, None]
    bands = unpacked(run["distributions"]["bn.a.running_var"]["bands"], 5)
    assert np.isfinite(bands[:, 0]).all()
    assert not np.isfinite(bands[:, 1:]).any()


def test_no_runs_but_one_without_metrics(full_run: Path) -> None:
    data = make_data([read_run(full_run)], [{}])
    assert data["runs"][0]["metrics"] == {}
    assert len(data["t"]) == 1
