"""Finding runs by folder, uuid, the beginning of it and `latest`."""

from pathlib import Path

import pytest

from labml_bn.cli.errors import UserError
from labml_bn.records.folder import find_run, find_runs, list_runs


@pytest.fixture
def logs(tmp_path: Path) -> Path:
    """Three runs, the newest neither first nor last by name."""
    for uuid, day, time in (
        ("aa11", "2026-01-02", "09:00:00"),
        ("aa22", "2026-01-10", "08:00:00"),
        ("bb", "2026-01-02", "10:00:00"),
    ):
        run = tmp_path / "logs" / "batch_norm" / uuid
        run.mkdir(parents=True)
        (run / "run.yaml").write_text(f"trial_date: '{day}'\ntrial_time: '{time}'\nuuid: {uuid}\n")
    (tmp_path / "logs" / "batch_norm" / "empty").mkdir()
    other = tmp_path / "logs" / "another program" / "cc11"
    other.mkdir(parents=True)
    (other / "run.yaml").write_text("trial_date: '2026-02-01'\ntrial_time: '09:00:00'\n")
    return tmp_path / "logs"


def test_newest_first(logs: Path) -> None:
    assert [run.name for run in list_runs(logs)] == ["aa22", "bb", "aa11"]
    for damaged in (b"[damaged", b"\xff\xfe", b"3"):
        (logs / "batch_norm" / "aa22" / "run.yaml").write_bytes(damaged)
        assert [run.name for run in list_runs(logs)] == ["bb", "aa11", "aa22"]


@pytest.mark.parametrize(
    ("name", "found"), [("latest", "aa22"), ("bb", "bb"), ("aa1", "aa11"), ("b", "bb"), ("aa22", "aa22")]
)
def test_by_name(logs: Path, name: str, found: str) -> None:
    assert find_run(name, logs) == logs / "batch_norm" / found


def test_latest_that_has_a_file(logs: Path) -> None:
    (logs / "batch_norm" / "aa11" / "weights").touch()
    assert find_run("latest", logs, having="weights").name == "aa11"
    with pytest.raises(UserError, match="has figures yet"):
        find_run("latest", logs, having="figures")


def test_by_folder(logs: Path) -> None:
    folder = logs / "batch_norm" / "aa11"
    assert find_run(str(folder), Path("elsewhere")) == folder


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("aa", r"'aa' is the beginning of 2 runs: aa11, aa22"),
        ("cc", r"no run in .*logs begins with 'cc'; the latest is aa22"),
        ("x" * 5000, "no run in"),
        ("~nobody-of-that-name/run", "no run in"),
        ("/tmp", "/tmp is not the folder of a run"),
    ],
)
def test_not_found(logs: Path, name: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        find_run(name, logs)


def test_no_runs(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there are no runs in"):
        find_run("latest", tmp_path / "logs")


@pytest.mark.parametrize(
    ("names", "found"),
    [
        (["latest:2"], ["bb", "aa22"]),
        (["latest:9"], ["aa11", "bb", "aa22"]),
        (["bb", "latest", "aa1", "b"], ["bb", "aa22", "aa11"]),
        (["aa22", "latest:2"], ["aa22", "bb"]),
    ],
)
def test_several(logs: Path, names: list[str], found: list[str]) -> None:
    assert [run.name for run in find_runs(names, logs)] == found


def test_several_not_found(logs: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there are no runs in"):
        find_runs(["latest:2"], tmp_path / "none")
    with pytest.raises(UserError, match="begins with 'latest:x'"):
        find_runs(["latest:x"], logs)
