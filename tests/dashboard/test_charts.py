"""Which curves are shown: losses and accuracies at first, and the user's choice, whatever is logged later."""

import base64
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from tests.dashboard.conftest import Dashboard, Start, logged, wait_until


def names(dashboard: Dashboard, uuid: str) -> list[str]:
    return [series["name"] for series in dashboard.post(f"metrics/{uuid}", {"get_all": True})["series"]]


def chosen(dashboard: Dashboard, uuid: str, preferences: dict[str, Any], which: str = "series_preferences") -> set[str]:
    """The metrics that a chart shows. The page has a number for each, in the order of the names."""
    series, choice = names(dashboard, uuid), preferences[which]
    assert len(series) == len(choice)
    return {name for name, number in zip(series, choice, strict=True) if number == 1}


def charts(dashboard: Dashboard, uuid: str) -> dict[str, set[str]]:
    """The additional charts in the page's order, and what they show."""
    found = sorted(dashboard.get(f"custom_metrics/{uuid}")["metrics"], key=lambda chart: -chart["created_time"])
    return {chart["name"]: chosen(dashboard, uuid, chart["preferences"]) for chart in found}


def expected_charts(layers: int = 3) -> dict[str, set[str]]:
    found = {"accuracy": {"accuracy.test", "accuracy.train", "accuracy.valid"}}
    for layer in range(1, layers + 1):
        for statistic, title in (("running_mean", "running mean"), ("running_var", "running variance")):
            percentiles = {f"bn.norm{layer}.{statistic}.p{percent}" for percent in (15, 50, 85)}
            found[f"norm{layer}: {title}, percentiles over channels"] = percentiles
    return found


def test_at_first(run: Path, start: Start) -> None:
    results = {name for name in logged(run) if name.startswith(("loss.", "accuracy."))}
    with start() as dashboard:
        assert chosen(dashboard, run.name, dashboard.get(f"metrics/preferences/{run.name}")) == results
        found = charts(dashboard, run.name)
        assert found == expected_charts()
        assert list(found) == list(expected_charts())
        # The page gets all points of every curve that a chart shows.
        answer = dashboard.post(f"metrics/{run.name}", {"get_all": False})
        assert not any(series["is_summary"] for series in answer["series"])
        answer = dashboard.post(f"compare/metrics/{run.name}?current={run.name}", {"get_all": False})
        sent = {
            series["name"]: np.frombuffer(base64.b64decode(series["value"]), np.float32) for series in answer["series"]
        }
        assert all(len(sent[name]) == len(logged(run)[name][0]) for name in results)


def test_the_choice_is_kept_when_metrics_are_added(run: Path, start: Start) -> None:
    """As in a run that is running: first it has a training loss, then all metrics, and later others between them."""
    log = (run / "log.jsonl").read_text()
    other = Path(shutil.copytree(run, run.parent / "other"))
    (run / "log.jsonl").write_text('{"track": {"loss.train": [[64, [2.0]]]}, "time": 0}\n')
    with start() as dashboard:

        def preferences() -> dict[str, Any]:
            found: dict[str, Any] = dashboard.get(f"metrics/preferences/{run.name}")
            return found

        def comparison(uuid: str) -> dict[str, Any]:
            found: dict[str, Any] = dashboard.get(f"compare/preferences/{uuid}")
            return found

        assert chosen(dashboard, run.name, preferences()) == {"loss.train"}
        assert charts(dashboard, run.name) == {}
        (run / "log.jsonl").write_text(log)
        wait_until(lambda: len(charts(dashboard, run.name)) == 7)
        results = {name for name in logged(run) if name.startswith(("loss.", "accuracy."))}
        assert chosen(dashboard, run.name, preferences()) == results

        # The user shows only two in the main chart, deletes a chart, adds one, and compares the run with another.
        series = names(dashboard, run.name)
        two = {"accuracy.valid", "bn.norm2.running_var.p50"}
        choice = [1 if name in two else -1 for name in series]
        dashboard.post(f"metrics/preferences/{run.name}", {"series_preferences": choice, "series_names": series})
        first = dashboard.get(f"custom_metrics/{run.name}")["metrics"][0]
        dashboard.post(f"custom_metrics/{run.name}/delete", {"id": first["id"]})
        mine = dashboard.post(f"custom_metrics/{run.name}/create", {"name": "mine"})
        dashboard.post(f"custom_metrics/{run.name}", {"id": mine["id"], "preferences": {"series_preferences": choice}})
        for uuid, base in ((run.name, other.name), (other.name, run.name)):
            dashboard.post(f"compare/metrics/{uuid}?current={uuid}", {"get_all": False})
            dashboard.post(
                f"compare/preferences/{uuid}",
                {
                    "series_preferences": choice,
                    "series_names": series,
                    "base_experiment": base,
                    "base_series_preferences": choice,
                    "base_series_names": series,
                },
            )
        before = charts(dashboard, run.name)
        assert first["name"] not in before
        with (run / "log.jsonl").open("a") as file:
            added = {
                "accuracy.held_out": [[6000, [0.5]]],
                "bn.new.running_mean": [[6000, [0.5, 0.5]]],
                "zzz": [[1, [1]]],
            }
            file.write(json.dumps({"track": added, "time": 0}) + "\n")
        wait_until(lambda: "zzz" in names(dashboard, run.name))
        assert chosen(dashboard, run.name, preferences()) == {*two, "accuracy.held_out"}
        after = charts(dashboard, run.name)
        new = {f"bn.new.running_mean.p{percent}" for percent in (15, 50, 85)}
        assert after.pop("new: running mean, percentiles over channels") == new
        if "accuracy" in before:
            before["accuracy"].add("accuracy.held_out")
        assert after == before
        assert chosen(dashboard, run.name, comparison(run.name)) == two
        assert chosen(dashboard, run.name, comparison(other.name), "base_series_preferences") == two


def test_distributions_are_hidden_at_first(run: Path, start: Start) -> None:
    """Those of `track=distributions` have curves of percentiles, but no chart of their own."""
    names_of = [f"bn.norm1.{name}" for name in ("batch_mean", "batch_var", "weight", "weight_gradient")]
    track = {name: [[6000, [3.0, 1.0, 2.0]]] for name in names_of}
    track["gradient.conv1.weight"] = [[6000, [number / 20 for number in range(21)]]]
    with (run / "log.jsonl").open("a") as file:
        file.write(json.dumps({"track": track, "time": 0}) + "\n")
    with start() as dashboard:
        found = names(dashboard, run.name)
        assert {f"{name}.p{percent}" for name in track for percent in (15, 50, 85)} < set(found)
        results = {name for name in found if name.startswith(("loss.", "accuracy."))}
        assert chosen(dashboard, run.name, dashboard.get(f"metrics/preferences/{run.name}")) == results
        assert charts(dashboard, run.name) == expected_charts()


def test_a_restored_run_has_its_charts_once(run: Path, start: Start, command: Any) -> None:
    with start() as dashboard:
        dashboard.post("runs", {"run_uuids": [run.name]}, method="PUT")
        dashboard.process.terminate()
        dashboard.process.wait(timeout=20)
    assert command("dashboard", "--sync").returncode == 0
    with start() as dashboard:
        assert charts(dashboard, run.name) == expected_charts()
        assert len(dashboard.get(f"custom_metrics/{run.name}")["metrics"]) == 7
