"""Finding runs by folder, uuid, the beginning of it and `latest`."""

import os
from pathlib import Path
from typing import Any

import pytest
import yaml

from labml_bn.cli.errors import UsageError, UserError
from labml_bn.records.folder import (
    check_files,
    find_run,
    is_running,
    is_sweep_name,
    list_checkpoints,
    list_runs,
    list_sweeps,
    locked,
    next_order,
    sweep_of,
)


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


def test_newest_first_whatever_the_clock_said(logs: Path) -> None:
    """A run that starts after others, and has an earlier time than one of them, is recorded as later."""
    before = {"trial_date": "2026-01-10", "trial_time": "07:59:59"}
    assert next_order(before, logs / "none") is None
    assert next_order({**before, "trial_time": "08:00:01"}, logs) is None
    for number, times in enumerate(
        [before, {**before, "trial_time": "08:00:00"}, {**before, "trial_date": "1999-01-01"}]
    ):
        run = logs / "batch_norm" / f"c{number}"
        run.mkdir()
        (run / "run.yaml").write_text(yaml.safe_dump({**times, "order": next_order(times, logs)}))
    assert [run.name for run in list_runs(logs)] == ["c2", "c1", "c0", "aa22", "bb", "aa11"]


@pytest.mark.parametrize("order", [".inf", ".nan", "-.inf", "1e300", "9" * 300, "x", "[1]", "null"])
def test_an_impossible_order(logs: Path, order: str) -> None:
    with (logs / "batch_norm" / "bb" / "run.yaml").open("a") as info:
        info.write(f"order: {order}\n")
    assert [run.name for run in list_runs(logs)] == ["aa22", "bb", "aa11"]


def test_running_while_locked(logs: Path) -> None:
    """Also without the lock's file, and in a folder that cannot be written to."""
    run = logs / "batch_norm" / "bb"
    assert not is_running(run)
    with locked(run):
        assert is_running(run)
        with pytest.raises(UserError, match="is in use by another process"), locked(run):
            pass
        (run / "run.lock").unlink()
        run.chmod(0o500)
        assert is_running(run)
        run.chmod(0o700)
        with pytest.raises(UserError, match="is in use by another process"), locked(run):
            pass
    assert not is_running(run)


def test_no_lock_through_a_link(logs: Path) -> None:
    run = logs / "batch_norm" / "bb"
    (run / "run.lock").symlink_to(run / "elsewhere")
    assert not is_running(run)
    with pytest.raises(UserError, match="cannot write the run to"), locked(run):
        pass
    assert not (run / "elsewhere").exists()


@pytest.mark.parametrize(
    ("name", "found"), [("latest", "aa22"), ("bb", "bb"), ("aa1", "aa11"), ("b", "bb"), ("aa22", "aa22")]
)
def test_by_name(logs: Path, name: str, found: str) -> None:
    assert find_run(name, logs) == logs / "batch_norm" / found


def test_latest_that_can_be_used(logs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Newer ones are passed over, which is reported; a run that is named is not checked."""

    def check(run: Path) -> None:
        if run.name not in usable:
            raise UserError(f"{run} cannot")

    folder = logs / "batch_norm"
    for usable, report in (
        (["aa22", "bb"], ""),
        (["bb"], f"latest is {folder / 'bb'}; newer, but passed over: {folder / 'aa22'} cannot\n"),
        (["aa11"], f"latest is {folder / 'aa11'}; newer, but passed over: {folder / 'aa22'} cannot; 1 more\n"),
    ):
        assert find_run("latest", logs, check).name == usable[0]
        assert capsys.readouterr().err == report
    usable = []
    with pytest.raises(UserError, match=r"^no run in .*logs can be used; the newest: .*aa22 cannot$"):
        find_run("latest", logs, check)
    assert find_run("bb", logs, check).name == "bb"
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("name", ["latest:2", "latest:0", "latest:"])
def test_several_where_one_is_needed(logs: Path, name: str) -> None:
    with pytest.raises(UsageError, match=f"^{name} means several runs, and this command takes one"):
        find_run(name, logs)


def in_sweep(logs: Path, name: str, *uuids: str) -> None:
    for uuid in uuids:
        with (logs / "batch_norm" / uuid / "run.yaml").open("a") as info:
            info.write(f"sweep: {name}\n")


def test_a_sweep_where_one_is_needed(logs: Path, work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its exact name, which goes before the beginning of a uuid and a folder that is no run."""
    in_sweep(logs, "b", "aa22", "aa11")
    work.joinpath("b").mkdir()
    monkeypatch.chdir(work)
    with pytest.raises(UsageError, match=r"^b is a sweep of several runs, and this command takes one: write latest"):
        find_run("b", logs)
    assert find_run("bb", logs).name == "bb"
    for pattern in ("norm=none", "lr<1", "accuracy.test>0.9"):
        with pytest.raises(UsageError, match=f"^{pattern} means several runs"):
            find_run(pattern, logs)


def test_the_folder_of_a_run_is_no_pattern(logs: Path) -> None:
    run = (logs / "batch_norm" / "bb").rename(logs / "batch_norm" / "a=b")
    assert find_run("a=b", logs) == run
    assert find_run(str(run), logs) == run


def test_sweeps(logs: Path, tmp_path: Path) -> None:
    assert list_sweeps(logs) == list_sweeps(tmp_path / "none") == {}
    in_sweep(logs, "second", "aa22")
    in_sweep(logs, "first", "bb", "aa11")
    found = {name: [run.name for run in runs] for name, runs in list_sweeps(logs).items()}
    assert found == {"first": ["aa11", "bb"], "second": ["aa22"]}
    with pytest.raises(UserError, match=r"^no run in .* begins with 'x'; the latest is aa22; sweeps: first, second$"):
        find_run("x", logs)


def test_list_checkpoints(tmp_path: Path) -> None:
    assert list_checkpoints(tmp_path) == []
    (tmp_path / "checkpoints").mkdir()
    for name in (
        "000000000100.pt",
        "000000002000.pt",
        ".000000003000.part.pt",
        "notes.pt",
        "2024.pt",
        "0" * 13 + ".pt",
    ):
        (tmp_path / "checkpoints" / name).touch()
    assert [path.name for path in list_checkpoints(tmp_path)] == ["000000002000.pt", "000000000100.pt"]


def test_checkpoints_of_another_folder(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "000000000100.pt").touch()
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "checkpoints").symlink_to(tmp_path / "other")
    assert list_checkpoints(tmp_path / "run") == []


@pytest.mark.parametrize("name", ["log.jsonl", "checkpoints", "checkpoints/000000000100.pt", "what labml adds"])
def test_a_run_with_links(tmp_path: Path, name: str) -> None:
    """What a run writes must not lead out of its folder. The folder itself may be a link."""
    run, other = tmp_path / "run", tmp_path / "other"
    for folder in (run / "checkpoints", run / "artifacts", other):
        folder.mkdir(parents=True)
    for file in ("run.yaml", "log.jsonl", "checkpoints/000000000100.pt"):
        (run / file).touch()
    check_files(run)
    (tmp_path / "link").symlink_to(run)
    check_files(tmp_path / "link")
    if (run / name).exists():
        (run / name).rename(tmp_path / "moved")
    (run / name).symlink_to(other)
    with pytest.raises(UserError, match=f"{name} is a symbolic link, which is not followed$"):
        check_files(run)
    (run / name).unlink()
    if "." in name:
        (run / name).mkdir()
        with pytest.raises(UserError, match=f"{name} is not a regular file$"):
            check_files(run)
        (run / name).rmdir()
    os.mkfifo(run / name)
    with pytest.raises(UserError, match=f"{name} is not a regular file$"):
        check_files(run)


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
    ("name", "is_one"),
    [
        *((name, True) for name in ("norm-lr-seed", "a", "7", "2026-11-23_a.b", "x" * 100)),
        *(
            (name, False)
            for name in ("", "latest", "a b", "a=b", "a/b", ".a", "-a", "a-", "x" * 101, "é", "a\n", "a:2")
        ),
    ],
)
def test_names_of_sweeps(name: str, is_one: bool) -> None:
    assert is_sweep_name(name) == is_one
    assert sweep_of({"sweep": name}) == (name if is_one else None)


@pytest.mark.parametrize("info", [{}, {"sweep": 5}, {"sweep": ["a"]}])
def test_a_run_of_no_sweep(info: dict[str, Any]) -> None:
    assert sweep_of(info) is None
