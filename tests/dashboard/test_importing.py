"""Runs on the dashboard agree with their folders: imported completely, once, and while they are running."""

import base64
import json
import os
import re
import shutil
import signal
import threading
from datetime import datetime
from pathlib import Path

import numpy as np
import pytest
import yaml

from labml_bn.dashboard.address import run_id
from tests.conftest import Begin, Run, runs
from tests.dashboard.conftest import Dashboard, Start, logged, wait_until


def plotted(dashboard: Dashboard, uuid: str) -> dict[str, tuple[list[float], list[float]]]:
    """The steps and values of each series that the page draws, by name. They are sent in float32."""
    answer = dashboard.post(f"metrics/{uuid}", {"get_all": True})

    def decoded(text: str) -> list[float]:
        return [float(number) for number in np.frombuffer(base64.b64decode(text), np.float32)]

    return {series["name"]: (decoded(series["step"]), decoded(series["value"])) for series in answer["series"]}


def test_a_run_is_imported_completely(run: Path, start: Start) -> None:
    info = yaml.safe_load((run / "run.yaml").read_text())
    end = json.loads((run / "run_log.jsonl").read_text())
    configs = yaml.safe_load((run / "configs.yaml").read_text())
    with start() as dashboard:
        (listed,) = dashboard.runs()
        assert listed["run_uuid"] == run.name
        assert listed["name"] == "batch_norm epochs=1 train_samples=6000 valid_samples=2000 use_cuda=false"
        started = datetime.fromtimestamp(listed["start_time"])
        assert started.strftime("%Y-%m-%d %H:%M:%S") == f"{info['trial_date']} {info['trial_time']}"
        assert listed["run_status"] == {"status": "completed", "time": end["time"]}
        shown = {config["key"]: config for config in dashboard.get(f"run/{run.name}")["configs"]}
        assert shown.keys() == configs.keys()
        assert all(shown[key]["computed"] == entry["computed"] for key, entry in configs.items())
        assert plotted(dashboard, run.name) == logged(run)


def test_distributions_are_drawn_by_percentiles(run: Path, start: Start) -> None:
    """Every metric with several values at each step, also those of `track=distributions`; a name that begins with
    `gradient.` is not one that labml's app leaves out, as `grad.` is.
    """
    quantiles = [number / 20 for number in range(21)]
    track = {"gradient.conv1.weight": [[6000, quantiles]], "bn.norm1.bias_gradient": [[6000, [1.0, 2.0]]]}
    with (run / "log.jsonl").open("a") as file:
        file.write(json.dumps({"track": track, "time": 0}) + "\n")
    with start() as dashboard:
        found = plotted(dashboard, run.name)
    assert found == logged(run)
    percentiles = [found[f"gradient.conv1.weight.p{percent}"][1] for percent in (15, 50, 85)]
    np.testing.assert_allclose(percentiles, [[0.15], [0.5], [0.85]], rtol=1e-6)


def test_importing_again_changes_nothing(run: Path, start: Start, command: Run) -> None:
    for _ in range(2):
        assert command("dashboard", "--sync").returncode == 0
    again = command("dashboard", "--sync")
    assert again.stdout == "imported runs from logs: 0\n"
    for _ in range(2):
        with start() as dashboard:
            assert len(dashboard.runs()) == 1
            assert plotted(dashboard, run.name) == logged(run)


def test_a_partly_imported_run_is_completed(run: Path, start: Start) -> None:
    log, end = (run / "log.jsonl").read_bytes(), (run / "run_log.jsonl").read_bytes()
    (run / "run_log.jsonl").unlink()
    (run / "log.jsonl").write_bytes(log[: len(log) // 2])
    half = logged_in_complete_lines(run)
    with start() as dashboard:
        assert plotted(dashboard, run.name) == half
        assert dashboard.runs()[0]["run_status"]["status"] == "no response"
        (run / "log.jsonl").write_bytes(log)
        (run / "run_log.jsonl").write_bytes(end)
        wait_until(lambda: plotted(dashboard, run.name) == logged(run))
        wait_until(lambda: dashboard.runs()[0]["run_status"]["status"] == "completed")


def test_settings_that_are_written_later_are_in_the_name(run: Path, start: Start) -> None:
    """A run is imported as soon as it has a folder, and its settings change when it is trained for longer."""
    configs = (run / "configs.yaml").read_text()
    (run / "configs.yaml").unlink()
    with start() as dashboard:
        assert dashboard.runs()[0]["name"] == "batch_norm"
        (run / "configs.yaml").write_text(configs)
        wait_until(lambda: "epochs=1 train_samples=6000" in dashboard.runs()[0]["name"])
        assert "epochs" in dashboard.get(f"run/{run.name}")["selected_configs"]


def logged_in_complete_lines(run: Path) -> dict[str, tuple[list[float], list[float]]]:
    log = run / "log.jsonl"
    kept = log.read_bytes()
    log.write_bytes(kept[: kept.rfind(b"\n") + 1])
    found = logged(run)
    log.write_bytes(kept)
    return found


def test_a_damaged_run_does_not_hide_the_others(run: Path, trained: Path, start: Start) -> None:
    for damaged in ("run.yaml", "configs.yaml", "log.jsonl", "run_log.jsonl"):
        other = Path(shutil.copytree(trained, run.parent / f"damaged{damaged}"))
        (other / damaged).write_bytes(b"\xff[{")
    with start() as dashboard:
        assert len(dashboard.runs()) == 5
        assert plotted(dashboard, run.name) == logged(run)


@pytest.mark.parametrize("content", ['{"track": null}\n', '{"track": {"loss.train": [[1, ["x"]], [2, []], 3]}}\n'])
def test_a_malformed_run_does_not_stop_the_updates(trained: Path, work: Path, start: Start, content: str) -> None:
    with start() as dashboard:
        malformed = Path(shutil.copytree(trained, work / "logs" / "batch_norm" / "malformed"))
        (malformed / "log.jsonl").write_text(content)
        (malformed / "run.yaml").write_text("tags: 5\nrepo_remotes: 7\ncomment: []\n")
        wait_until(lambda: len(dashboard.runs()) == 1)
        run = Path(shutil.copytree(trained, work / "logs" / "batch_norm" / trained.name))
        wait_until(lambda: len(dashboard.runs()) == 2)
        assert plotted(dashboard, run.name) == logged(run)


def test_an_error_does_not_stop_the_updates(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is reported once, and the runs are looked for again."""
    monkeypatch.setenv("LABML_APP_SERVER_IP", "")  # labml's app cannot be imported without these
    monkeypatch.setenv("LABML_APP_SERVER_PORT", "")
    from labml_bn.dashboard import importing

    tried = threading.Event()
    results: list[Exception | int] = [OSError("first"), OSError("first"), ValueError("other"), 0, OSError("other"), 0]

    class Importer:
        def update(self) -> int:
            result = results.pop(0)
            if not results:
                tried.set()
                results.append(0)
            if isinstance(result, Exception):
                raise result
            return result

    monkeypatch.setattr(importing, "INTERVAL", 0.001)
    with importing.Follower(Importer(), lambda: None):  # type: ignore[arg-type]
        assert tried.wait(20)
    lines = capsys.readouterr().err.splitlines()
    assert lines == [f"warning: cannot import runs: {text}" for text in ("first", "other", "other")]


def test_non_finite_values_are_not_drawn(run: Path, start: Start) -> None:
    with (run / "log.jsonl").open("a") as log:
        log.write(
            '{"track": {"loss.train": [[7000, [NaN]], [7064, [Infinity]], [7128, [0.5]]], "new": [[1, [NaN]]]}}\n'
        )
    with start() as dashboard:
        steps, values = plotted(dashboard, run.name)["loss.train"]
        assert (steps[-1], values[-1]) == (7128, 0.5)
        assert steps[-2] <= 6000
        assert "new" not in plotted(dashboard, run.name)


def test_two_dashboards_for_one_folder(run: Path, work: Path, start: Start, command: Run) -> None:
    """Only the first one keeps what is chosen, and deleted runs are restored when it has ended."""
    with start() as first, start() as second:
        for dashboard in (first, second):
            assert plotted(dashboard, run.name) == logged(run)
        second.post("runs", {"run_uuids": [run.name]}, method="PUT")
        assert (len(first.runs()), len(second.runs())) == (1, 0)
        done = command("dashboard", "--sync")
        assert (done.returncode, done.stderr) == (
            1,
            f"error: another dashboard shows the runs in {work / 'logs'}: end it first\n",
        )
        second.process.terminate()
        _, errors = second.process.communicate(timeout=20)
        assert errors.splitlines() == [
            "warning: another dashboard shows these runs: archived and deleted runs and shown curves are kept "
            "only there",
            "interrupted",
        ]
    with start() as dashboard:
        assert len(dashboard.runs()) == 1


def test_changes_by_the_user_are_kept(run: Path, start: Start) -> None:
    with start() as dashboard:
        dashboard.post(f"run/{run.name}", {"name": "mine", "note": "looked at"})
        names = list(plotted(dashboard, run.name))
        chosen = [1 if name.startswith("accuracy") else -1 for name in names]
        dashboard.post(f"metrics/preferences/{run.name}", {"series_preferences": chosen})
        with (run / "log.jsonl").open("a") as log:
            log.write(json.dumps({"track": {"loss.train": [[7000, [0.5]]], "new": [[7000, [1.0]]]}, "time": 0}) + "\n")
        wait_until(lambda: plotted(dashboard, run.name) == logged(run))
        assert dashboard.get(f"run/{run.name}")["name"] == "mine"
        preferences = dict(
            zip(
                sorted([*names, "new"]),
                dashboard.get(f"metrics/preferences/{run.name}")["series_preferences"],
                strict=True,
            )
        )
        assert preferences == {**dict(zip(names, chosen, strict=True)), "new": -1}


def test_a_deleted_run_stays_deleted_until_sync(run: Path, start: Start, command: Run) -> None:
    with start() as dashboard:
        dashboard.post("runs/archive", {"run_uuids": [run.name]})
        dashboard.post("runs", {"run_uuids": [run.name]}, method="PUT")
        assert dashboard.runs() == []
        with (run / "log.jsonl").open("a") as log:  # it changes, and another run is imported after it
            log.write('{"track": {}, "time": 0}\n')
        shutil.copytree(run, run.parent / "zzz")
        wait_until(lambda: [shown["run_uuid"] for shown in dashboard.runs()] == ["zzz"])
        dashboard.process.terminate()
        dashboard.process.wait(timeout=20)
    with start() as dashboard:
        assert [shown["run_uuid"] for shown in dashboard.runs()] == ["zzz"]
        dashboard.process.terminate()
        dashboard.process.wait(timeout=20)
    assert command("dashboard", "--sync").stdout == "imported runs from logs: 1\n"
    with start() as dashboard:
        assert len(dashboard.runs()) == 2
        assert dashboard.get("runs/null?folder_name=archive")["runs"] == []
        assert plotted(dashboard, run.name) == logged(run)
    assert run.is_dir()


def test_a_run_whose_folder_has_gone_is_not_shown(run: Path, start: Start) -> None:
    with start() as dashboard:
        run.rename(run.parents[2] / "away")
        wait_until(lambda: dashboard.runs() == [])
        assert dashboard.request("GET", f"/api/v1/run/{run.name}")[0] == 404
        (run.parents[2] / "away").rename(run)
        wait_until(lambda: len(dashboard.runs()) == 1)
        assert plotted(dashboard, run.name) == logged(run)


@pytest.mark.parametrize("name", ["my_run", "a run, γ", "status", os.fsdecode(b"caf\xe9")])
def test_the_names_of_folders(trained: Path, work: Path, start: Start, name: str) -> None:
    """labml's page knows letters, digits and hyphens only; others, even those that are not UTF-8, get an id."""
    folder = Path(shutil.copytree(trained, work / "logs" / "batch_norm" / name))
    shutil.copytree(trained, work / "logs" / "batch_norm" / "zzz")
    with start() as dashboard:
        assert len(dashboard.runs()) == 2
        uuid = run_id(name)
        assert re.fullmatch("[0-9a-zA-Z-]+", uuid)
        assert plotted(dashboard, uuid) == logged(folder)
        assert dashboard.get(f"run/status/{uuid}")["run_status"]["status"] == "completed"
        dashboard.post(f"run/{uuid}", {"note": "mine"})
        assert json.loads((folder / "notes.json").read_text()) == {"note": "mine"}
        dashboard.process.terminate()
        assert dashboard.process.communicate(timeout=20) == ("", "interrupted\n")


def test_a_run_behind_a_link_is_updated(trained: Path, work: Path, start: Start) -> None:
    elsewhere = Path(shutil.copytree(trained, work / "elsewhere"))
    (work / "logs" / "batch_norm").mkdir(parents=True)
    (work / "logs" / "batch_norm" / "linked").symlink_to(elsewhere)
    with start() as dashboard:
        assert [shown["run_uuid"] for shown in dashboard.runs()] == ["linked"]
        with (elsewhere / "log.jsonl").open("a") as log:
            log.write(json.dumps({"track": {"loss.train": [[7000, [0.5]]]}, "time": 0}) + "\n")
        wait_until(lambda: plotted(dashboard, "linked") == logged(elsewhere))


def test_a_run_that_cannot_be_read_is_reported_once(run: Path, trained: Path, start: Start) -> None:
    """Also if it is the first of them, and it is shown when it can be read again."""
    bad = Path(shutil.copytree(trained, run.parent / "0bad"))
    (bad / "configs.yaml").rename(bad / "kept")
    (bad / "configs.yaml").symlink_to("kept")
    with start() as dashboard:
        assert [shown["run_uuid"] for shown in dashboard.runs()] == [run.name]
        shutil.copytree(trained, run.parent / "zzz")
        wait_until(lambda: len(dashboard.runs()) == 2)
        (bad / "configs.yaml").unlink()
        (bad / "kept").rename(bad / "configs.yaml")
        wait_until(lambda: len(dashboard.runs()) == 3)
        dashboard.process.terminate()
        _, errors = dashboard.process.communicate(timeout=20)
    warning, end = errors.splitlines()
    assert warning.startswith("warning: cannot show ")
    assert "0bad/configs.yaml is a symbolic link" in warning
    assert end == "interrupted"


def test_what_is_in_a_folder_is_harmless_on_the_page(run: Path, start: Start) -> None:
    """Numbers that JSON lacks, and characters that no encoding has or that disguise a text."""
    configs = yaml.safe_load((run / "configs.yaml").read_text())
    configs["epochs"] |= {"computed": float("inf"), "value": float("nan")}
    configs["evil\u202e"] = {"name": "\x1b[2J", "computed": "a\0b", "value": 1}
    (run / "configs.yaml").write_text(yaml.safe_dump(configs))
    (run / "notes.json").write_text('{"comment": "\\u202egnp.exe", "note": "two\\nlines"}')
    huge = [[step, [1.7e308]] for step in range(1, 9)]
    with (run / "log.jsonl").open("a") as log:
        log.write(json.dumps({"track": {"loss.huge": huge, "\ud800": [[1, [1.0]]]}, "time": 0}) + "\n")
    with start() as dashboard:
        shown = dashboard.get(f"run/{run.name}")
        assert (shown["comment"], shown["note"]) == ("\\u202egnp.exe", "two\nlines")
        found = {config["key"]: config for config in shown["configs"]}
        assert (found["epochs"]["computed"], found["epochs"]["value"]) == ("inf", "nan")
        assert (found["evil\\u202e"]["name"], found["evil\\u202e"]["computed"]) == ("\\x1b[2J", "a\\x00b")
        curves = plotted(dashboard, run.name)
        assert np.isfinite(curves["loss.huge"][1]).all()
        assert "\\ud800" not in curves  # no metric has such a name


#: A run of about ten seconds.
LONG = ["epochs=12", "train_samples=1000", "valid_samples=500", "device.use_cuda=false"]


@pytest.mark.slow
def test_a_running_run_is_updated_live_and_survives_a_killed_dashboard(
    work: Path, begin: Begin, data_path: Path, start: Start
) -> None:
    with start() as dashboard, begin(*LONG, f"data_path={data_path}") as training:
        assert training.stdout is not None
        training.stdout.readline()
        assert training.stdout.readline().startswith(f"Watch it: {dashboard.url}/run/")
        wait_until(lambda: len(dashboard.runs()) == 1)
        (run,) = runs(work)
        assert dashboard.runs()[0]["run_status"]["status"] == "in progress"
        wait_until(lambda: "loss.test" in plotted(dashboard, run.name))
        some = len(plotted(dashboard, run.name)["loss.train"][0])
        wait_until(lambda: len(plotted(dashboard, run.name)["loss.train"][0]) > some)
        os.kill(dashboard.process.pid, signal.SIGKILL)
        assert training.poll() is None
        assert training.wait(timeout=300) == 0
    with start() as dashboard:
        assert dashboard.runs()[0]["run_status"]["status"] == "completed"
        assert plotted(dashboard, run.name) == logged(run)


def test_a_sweep_prints_where_it_is_shown(work: Path, train: Run, data_path: Path, start: Start) -> None:
    with start() as dashboard:
        done = train(*LONG, "epochs=1", "norm=none", "seed=1..2", f"data_path={data_path}")
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.splitlines()[1] == f"Watch them: {dashboard.url}/"
        resumed = train("--resume", "seed")
    assert "Watch" not in resumed.stdout


@pytest.mark.slow
def test_a_killed_run_is_shown_up_to_its_last_metrics(work: Path, begin: Begin, data_path: Path, start: Start) -> None:
    with start() as dashboard, begin(*LONG, f"data_path={data_path}") as training:
        wait_until(lambda: len(runs(work)) == 1 and (runs(work)[0] / "log.jsonl").exists(), 60)
        os.kill(training.pid, signal.SIGKILL)
        wait_until(lambda: [run["run_status"]["status"] for run in dashboard.runs()] == ["no response"])
        assert plotted(dashboard, runs(work)[0].name) == logged_in_complete_lines(runs(work)[0])
