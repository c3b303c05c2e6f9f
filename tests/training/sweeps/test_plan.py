"""What is left to do for a sweep: its runs by their settings, whoever has made them."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from labml_bn.cli.errors import UsageError
from labml_bn.records.folder import locked
from labml_bn.settings import read_grid
from labml_bn.training.sweeps import plan
from labml_bn.training.sweeps.definition import Definition
from tests.conftest import another


def run_of(trained: Path, logs: Path, uuid: str, status: str, settings: dict[str, Any], sweep: str = "s") -> Path:
    """A copy of a run, as a part of a sweep that ended with this status."""
    run = another(trained, logs, uuid, f"{uuid}:00:00", **settings)
    info = yaml.safe_load((run / "run.yaml").read_text())
    (run / "run.yaml").write_text(yaml.safe_dump({**info, "sweep": sweep}))
    (run / "run_log.jsonl").write_text(json.dumps({"status": status}) + "\n")
    return run


@pytest.fixture
def sweep() -> Definition:
    """The settings of the run `trained`, with other seeds."""
    settings = ["epochs=1", "train_samples=6000", "valid_samples=2000", "device.use_cuda=false"]
    return Definition("s", read_grid([*settings, "seed=1..5"]))


def statuses(logs: Path, sweep: Definition) -> list[tuple[str, str, str | None]]:
    parts = plan.planned(logs, sweep, is_new=False)
    return [(part.label, part.status, part.folder.name if part.folder else None) for part in parts]


def test_what_has_been_done(trained: Path, tmp_path: Path, sweep: Definition) -> None:
    run_of(trained, tmp_path, "01", "completed", {"seed.seed": 1})
    run_of(trained, tmp_path, "02", "diverged", {"seed.seed": 2})
    run_of(trained, tmp_path, "03", "interrupted", {"seed.seed": 3})
    run_of(trained, tmp_path, "04", "crashed", {"seed.seed": 4})
    shutil.rmtree(tmp_path / "batch_norm" / "04" / "checkpoints")
    run_of(trained, tmp_path, "05", "completed", {"seed.seed": 5}, "other")
    assert statuses(tmp_path, sweep) == [
        ("seed=1", "completed", "01"),
        ("seed=2", "diverged", "02"),
        ("seed=3", plan.RESUME, "03"),
        ("seed=4", plan.START, "04"),
        ("seed=5", plan.START, None),
    ]
    assert plan.planned(tmp_path, sweep, is_new=True)[0].images == 6000


def test_the_best_of_several(trained: Path, tmp_path: Path, sweep: Definition) -> None:
    """A complete one, or else the newest that can be resumed; folders and how often it was saved do not count."""
    run_of(trained, tmp_path, "01", "completed", {"seed.seed": 1, "keep": 7, "data_path": "x", "logs_path": "y"})
    run_of(trained, tmp_path, "02", "interrupted", {"seed.seed": 1})
    for uuid in ("03", "04"):
        run_of(trained, tmp_path, uuid, "interrupted", {"seed.seed": 2})
    assert statuses(tmp_path, sweep)[:2] == [("seed=1", "completed", "01"), ("seed=2", plan.RESUME, "04")]


def test_one_that_is_running(trained: Path, tmp_path: Path, sweep: Definition, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is waited for, for a while."""
    run = run_of(trained, tmp_path, "01", "resumed", {"seed.seed": 1})
    monkeypatch.setattr(plan, "PATIENCE", 0.5)
    with locked(run):
        assert statuses(tmp_path, sweep)[0] == ("seed=1", "running", "01")
    monkeypatch.setattr(plan, "PATIENCE", 60.0)
    asked = 0

    def ends_soon(seconds: float) -> None:
        nonlocal asked
        asked += 1
        if asked == 3:
            held.__exit__(None, None, None)

    monkeypatch.setattr(plan.time, "sleep", ends_soon)  # type: ignore[attr-defined]
    held = locked(run)
    held.__enter__()
    assert statuses(tmp_path, sweep)[0] == ("seed=1", plan.RESUME, "01")


def test_runs_with_other_settings(
    trained: Path, tmp_path: Path, sweep: Definition, capsys: pytest.CaptureFixture[str]
) -> None:
    """A new sweep does not mix with them; one that there is already has its own, and leaves the others."""
    run_of(trained, tmp_path, "01", "completed", {"seed.seed": 6})
    run_of(trained, tmp_path, "02", "completed", {"seed.seed": 2})
    with pytest.raises(UsageError, match="the sweep s has runs with other settings"):
        plan.planned(tmp_path, sweep, is_new=True)
    assert statuses(tmp_path, sweep)[:2] == [("seed=1", plan.START, None), ("seed=2", "completed", "02")]
    assert capsys.readouterr().err == "warning: the sweep s also has 1 run with other settings, ignored here\n"


def test_a_run_that_was_resumed_with_changes(
    trained: Path, tmp_path: Path, sweep: Definition, capsys: pytest.CaptureFixture[str]
) -> None:
    """For more epochs, or on another device: it is the same run of the sweep. One of fewer epochs is another one."""
    longer = {"epochs": 2, "device.use_cuda": True, "keep": 5}
    run_of(trained, tmp_path, "01", "completed", {"seed.seed": 1, **longer})
    run_of(trained, tmp_path, "02", "interrupted", {"seed.seed": 2, **longer})
    assert statuses(tmp_path, sweep)[:2] == [("seed=1", "completed", "01"), ("seed=2", plan.RESUME, "02")]
    assert [part.images for part in plan.planned(tmp_path, sweep, is_new=True)] == [6000, 12000, *[6000] * 3]
    assert capsys.readouterr().err == ""
    two = Definition("s", read_grid(["epochs=3", "train_samples=6000", "valid_samples=2000", "seed=1..2"]))
    assert [part.status for part in plan.planned(tmp_path, two, is_new=False)] == [plan.START] * 2
    assert "the sweep s also has 2 runs with other settings" in capsys.readouterr().err


def test_epochs_that_vary(trained: Path, tmp_path: Path) -> None:
    """A run of more epochs is then another run."""
    settings = ["train_samples=6000", "valid_samples=2000", "device.use_cuda=false", "epochs=1,2"]
    run_of(trained, tmp_path, "01", "completed", {"epochs": 2})
    found = statuses(tmp_path, Definition("s", read_grid(settings)))
    assert found == [("epochs=1", plan.START, None), ("epochs=2", "completed", "01")]


def test_without_a_definition(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_of(trained, tmp_path, "01", "completed", {"seed.seed": 1, "norm": "none"})
    run_of(trained, tmp_path, "02", "interrupted", {"seed.seed": 2, "norm": "none"})
    away = {"seed.seed": 3, "norm": "none", "data_path": "/not/mine", "logs_path": "/not/mine"}
    shutil.rmtree(run_of(trained, tmp_path, "04", "killed", away) / "checkpoints")
    parts = plan.known(tmp_path, "s", {})
    assert [(part.label, part.status) for part in parts][2:] == [("seed=3", plan.START)]
    assert "/not/mine" not in parts[2].settings.values()  # someone else may have made the run: it does not name folders
    shutil.rmtree(tmp_path / "batch_norm" / "04")
    capsys.readouterr()
    parts = plan.known(tmp_path, "s", {"data_path": "elsewhere"})
    assert [(part.label, part.status) for part in parts] == [("seed=1", "completed"), ("seed=2", plan.RESUME)]
    assert {part.settings["data_path"] for part in parts} == {"elsewhere"}
    assert "so only the 2 runs in " in capsys.readouterr().err
