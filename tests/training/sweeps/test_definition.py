"""The file with the settings of a sweep, which someone else may have made, its lock, and the names of sweeps."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from labml_bn.cli.errors import UsageError, UserError
from labml_bn.settings import Grid, read_grid
from labml_bn.training.sweeps import definition
from labml_bn.training.sweeps.definition import Definition
from tests.conftest import another


def grid(*arguments: str) -> Grid:
    return read_grid(["norm=none,torch", "betas=[0.5,0.6],[0.8,0.9]", "lr=1e-3", *arguments])


def saved(logs: Path, sweep: Definition) -> Definition | None:
    with definition.held(logs, sweep.name):
        definition.write(logs, sweep)
    return definition.read(logs, sweep.name)


def test_what_is_written_is_read(tmp_path: Path) -> None:
    """The folders are not settings of the sweep; that of the data sets is relative to the definition."""
    written = {"tags": ["a", "ü"], "note": "it's\n"}
    (tmp_path / "data").mkdir()
    found = saved(tmp_path / "logs", Definition("s", grid(f"data_path={tmp_path}/data", "logs_path=x"), written))
    assert found == Definition("s", grid(), written, "../../data")
    assert found.has_the_settings_of(grid("data_path=elsewhere", "logs_path=there", "epochs=10"))
    assert not found.has_the_settings_of(grid("epochs=11"))
    assert not found.has_the_settings_of(grid("norm=none"))


def test_the_largest_sweep(tmp_path: Path) -> None:
    assert saved(tmp_path, Definition("s", read_grid(["seed=1..100000"]))) is not None
    with pytest.raises(UsageError, match="have more than 1 MiB: make several sweeps of it"):
        saved(tmp_path, Definition("s", read_grid(["seed=1000000000..1000099999"])))


GOOD: dict[str, Any] = {"settings": {"epochs": 1}, "sweep": {"seed.seed": [1, 2]}, "notes": {}, "data": "x"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "is damaged: it has no settings of a sweep"),
        ("[" * 100_000, "is damaged"),
        (json.dumps({**GOOD, "settings": []}), "is damaged"),
        (json.dumps({**GOOD, "sweep": {}}), "is damaged"),
        (json.dumps({**GOOD, "settings": {"epochs": "x"}}), "s.json: epochs must be an integer"),
        (json.dumps({**GOOD, "sweep": {"seed.seed": "1..9999999"}}), "these are 9,999,999 runs"),
        (json.dumps({**GOOD, "sweep": {"logs_path": ["/etc"]}}), "s.json: logs_path cannot vary"),
        (
            json.dumps({**GOOD, "sweep": {"norm": ["none", "torch"], "train_batch_size": [1]}}),
            "s.json: norm=torch: train_batch_size=1 makes",
        ),
        (" " * (1 << 21), "is larger than 1 MiB"),
    ],
)
def test_one_that_someone_else_has_made(tmp_path: Path, content: str, message: str) -> None:
    file = definition.path(tmp_path, "s")
    file.parent.mkdir()
    file.write_text(content)
    with pytest.raises(UserError) as raised:
        definition.read(tmp_path, "s")
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)


def test_what_it_does_not_decide(tmp_path: Path) -> None:
    """Where anything is stored, and notes that are none."""
    file = definition.path(tmp_path, "s")
    file.parent.mkdir()
    settings = {"epochs": 1, "logs_path": "/etc", "data_path": "/etc"}
    file.write_text(json.dumps({**GOOD, "settings": settings, "notes": {"tags": "x", "other": 1}, "data": 3}))
    assert definition.read(tmp_path, "s") == Definition("s", Grid({"epochs": 1}, {"seed.seed": [1, 2]}), {}, None)


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "sweeps").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UserError, match="sweeps is a symbolic link, in which no sweep is saved"):
        saved(tmp_path / "logs", Definition("s", grid()))
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_one_process_at_a_time(tmp_path: Path) -> None:
    with (
        definition.held(tmp_path, "s"),
        definition.held(tmp_path, "other"),
        pytest.raises(UserError, match="the sweep s is in use by another process"),
        definition.held(tmp_path, "s"),
    ):
        pass
    with definition.held(tmp_path, "s"):
        pass


def test_names(tmp_path: Path, trained: Path) -> None:
    """A name is taken by a definition, or by runs."""
    assert definition.free_name(tmp_path, "norm") == "norm"
    run = another(trained, tmp_path, "aaaa0000")
    info = yaml.safe_load((run / "run.yaml").read_text())
    (run / "run.yaml").write_text(yaml.safe_dump({**info, "sweep": "norm"}))
    saved(tmp_path, Definition("norm-2", grid()))
    assert definition.free_name(tmp_path, "norm") == "norm-3"
    assert definition.free_name(tmp_path, "x" * 200) == "sweep"
    assert [definition.exists(tmp_path, name) for name in ("norm", "norm-2", "norm-3", "../norm")] == [
        *(True, True, False, False)
    ]
    assert definition.runs_of(tmp_path, "norm") == [run]
