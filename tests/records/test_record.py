"""Reading a run's folder: a real run, and the same with damaged files."""

import json
import os
import shutil
import subprocess
import sys
from datetime import datetime
from pathlib import Path

import numpy as np
import pytest

from labml_bn.records import notes
from labml_bn.records.folder import is_running
from labml_bn.records.record import (
    LINE_LIMIT,
    LOG_LIMIT,
    MOST_METRICS,
    Record,
    names_of,
    read_run,
    read_runs,
    short_uuids,
)
from labml_bn.settings import default
from tests.conftest import another, metrics


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    """A copy of a finished run."""
    return Path(shutil.copytree(trained, tmp_path / trained.name))


def test_a_finished_run(run: Path) -> None:
    record = read_run(run)
    assert record.uuid == run.name
    assert record.status == "completed"
    assert record.name == "batch_norm epochs=1 train_samples=6000 valid_samples=2000 use_cuda=false"
    assert record.settings["train_samples"] == 6000
    assert record.settings["optimizer.learning_rate"] == 0.001
    assert record.settings["optimizer.optimizer"] == "Adam"
    assert 0 < record.ended - record.started < 300


def test_its_metrics_are_the_logged_ones(run: Path) -> None:
    logged = metrics(run)
    read = read_run(run).metrics()
    assert read.keys() == logged.keys()
    for name, points in logged.items():
        assert read[name].steps.tolist() == [step for step, _ in points]
        assert read[name].values.tolist() == [values for _, values in points]
    some = read_run(run).metrics("accuracy.test", "loss.valid")
    assert some.keys() == {"accuracy.test", "loss.valid"}
    np.testing.assert_array_equal(some["loss.valid"].values, read["loss.valid"].values)


def test_what_the_user_has_written(trained: Path, tmp_path: Path) -> None:
    run, other = (
        another(trained, tmp_path, uuid, "08:00:00", **{"seed.seed": seed}) for uuid, seed in (("aa", 1), ("bb", 2))
    )
    assert (read_run(run).sweep, read_run(run).tags, read_run(run).notes) == (None, [], {})
    with (run / "run.yaml").open("a") as info:
        info.write("sweep: norm-seed\n")
    notes.write(run, {"name": "the \x1b[2J first", "tags": ["a", "b", "a"], "note": "γ"})
    record = read_run(run)
    assert (record.sweep, record.tags, record.notes["note"]) == ("norm-seed", ["a", "b"], "γ")
    notes.write(run, {"tags": ["\x1b[2J", "x" * 101, *map(str, range(10_000))]})
    assert read_run(run).tags == [str(number) for number in range(50)]
    shown = "the \\x1b[2J first"
    assert record.name == shown
    assert names_of([record, read_run(other)]) == {run: shown, other: read_run(other).name}


@pytest.mark.parametrize("status", ["completed", "interrupted", "diverged", "crashed", "resumed", "well"])
def test_the_recorded_status(run: Path, status: str) -> None:
    with (run / "run_log.jsonl").open("a") as ends:
        ends.write(json.dumps({"status": status, "time": 0}) + "\n")
    assert read_run(run).status == ("killed" if status in {"resumed", "well"} else status)


@pytest.mark.parametrize("end", [b'{"track": {"loss.train": [[64', b'{"track": {}}', b"\xff\xfe\x00"])
def test_half_a_line_at_the_end_is_ignored(run: Path, end: bytes) -> None:
    before = read_run(run).metrics()
    with (run / "log.jsonl").open("ab") as file:
        file.write(end)
    after = read_run(run).metrics()
    assert {name: len(series.steps) for name, series in after.items()} == {
        name: len(series.steps) for name, series in before.items()
    }


def test_a_damaged_line_in_the_middle_is_ignored(run: Path) -> None:
    log = run / "log.jsonl"
    lines = log.read_bytes().splitlines(keepends=True)
    log.write_bytes(lines[0] + b"\x00\x00\x00\n[]\n" + b"".join(lines[1:]))
    assert read_run(run).metrics()["loss.train"].steps.tolist() == [step for step, _ in metrics_of(lines)["loss.train"]]


def metrics_of(lines: list[bytes]) -> dict[str, list[tuple[int, list[float]]]]:
    found: dict[str, list[tuple[int, list[float]]]] = {}
    for line in lines:
        for name, points in json.loads(line)["track"].items():
            found.setdefault(name, []).extend(points)
    return found


@pytest.mark.parametrize("damaged", ["run.yaml", "configs.yaml", "run_log.jsonl", "log.jsonl"])
def test_a_missing_or_damaged_file(run: Path, damaged: str) -> None:
    for content in (None, b"", b"[1", b"\xff\xfe", b"{a: b: c}", b"- 1\n", b"configs: [a]\nnorm: {value: 3}\n"):
        if content is None:
            (run / damaged).unlink()
        else:
            (run / damaged).write_bytes(content)
        record = read_run(run)
        if damaged == "configs.yaml":
            assert record.settings["epochs"] == default("epochs")
        if damaged == "run_log.jsonl":
            assert record.status == "killed"
        assert (not record.metrics()) == (damaged == "log.jsonl")


@pytest.mark.parametrize("name", ["run.yaml", "configs.yaml", "run_log.jsonl", "log.jsonl"])
@pytest.mark.parametrize("kind", ["pipe", "link", "device", "too large", "too deep"])
def test_files_that_are_not_read(run: Path, capsys: pytest.CaptureFixture[str], name: str, kind: str) -> None:
    """One line says why, and the other runs are read."""
    good = shutil.copytree(run, run.with_name("good"))
    file = run / name
    file.rename(run / "other")
    if kind == "pipe":
        os.mkfifo(file)
    elif kind == "too large":
        with file.open("wb") as written:
            written.truncate(LOG_LIMIT + 1)
    elif kind == "too deep":
        file.write_bytes(b"[" * 100_000 + b"\n")
    else:
        file.symlink_to("other" if kind == "link" else "/dev/zero")
    read = [record.folder for record in read_runs([run, good])]
    error = capsys.readouterr().err
    if kind == "too deep" and name.endswith(".jsonl"):  # a damaged line
        assert read == [run, good]
        assert error == ""
    else:
        assert read == [good]
        assert error.startswith(f"warning: this run cannot be read: {file}")
        assert error.count("\n") == 1


def test_lines_that_are_too_long(run: Path) -> None:
    """They are left out, as other damaged lines are; a sparse file has one, too."""
    before = read_run(run).metrics()
    with (run / "log.jsonl").open("ab") as file:
        file.write(b'{"track": {"loss.train": [[1, [1.0]' + b" " * LINE_LIMIT + b"]]}}\n")
        file.write(b'{"track": {"added": [[1, [1.0]]]}}\n')
        file.truncate(file.tell() + 3 * LINE_LIMIT)
    after = read_run(run).metrics()
    assert after.keys() == before.keys() | {"added"}
    assert len(after["loss.train"].steps) == len(before["loss.train"].steps)


def test_very_many_metrics(run: Path) -> None:
    track = ", ".join(f'"a{number}": [[1, [1.0]]]' for number in range(2 * MOST_METRICS))
    (run / "log.jsonl").write_text(f'{{"track": {{{track}}}}}\n')
    assert len(read_run(run).metrics()) == MOST_METRICS


def test_parts_with_another_number_of_channels(run: Path) -> None:
    """The first one counts."""
    lines = [[[1, [1.0, 2.0]]], [[3, [5.0, 6.0]]], [[2, [3.0]]], [], [[2, [3.0, 4.0]]]]
    (run / "log.jsonl").write_text("".join(json.dumps({"track": {"a": points}}) + "\n" for points in lines))
    series = read_run(run).metrics()["a"]
    assert series.steps.tolist() == [1, 2, 3]
    assert series.values.tolist() == [[1, 2], [3, 4], [5, 6]]


def test_the_name_of_a_folder(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A link has its own, and what a terminal would act on is escaped."""
    link = run.with_name("link")
    link.symlink_to(run)
    assert read_run(link).uuid == "link"
    monkeypatch.chdir(link)
    assert read_run(Path()).uuid == run.name  # the working directory is never a link
    strange = run.rename(run.with_name("a\x1b[2J\nb\udcff\u202e"))
    assert read_run(strange).uuid == r"a\x1b[2J\nb\udcff\u202e"


@pytest.mark.parametrize(
    "track",
    [
        "null",
        "5",
        '{"accuracy.test": 5}',
        '{"accuracy.test": [[1, "x"]]}',
        '{"accuracy.test": [[1, []]]}',
        '{"accuracy.test": [[1, [0.5, 0.6]], [2], 3, ["a", [1]]]}',
        '{"accuracy.test": [[1e999, [0.5]], [99999999999999999999999, [0.5]], [true, null]]}',
    ],
)
def test_a_line_of_another_form(run: Path, track: str) -> None:
    """It is valid JSON with other content: the other lines are read."""
    before = read_run(run).metrics()["accuracy.test"]
    with (run / "log.jsonl").open("a") as log:
        log.write(f'{{"track": {track}, "time": "abc", "elapsed": []}}\n')
    (run / "run_log.jsonl").write_text('{"status": ["x"], "time": "abc"}\n')
    record = read_run(run)
    assert record.metrics()["accuracy.test"].values.tolist() == before.values.tolist()
    assert record.status == "killed"
    assert record.elapsed >= 0


def test_a_long_last_line(run: Path) -> None:
    """For example the losses of a day on one line."""
    losses = [[step, [0.5]] for step in range(200_000)]
    with (run / "log.jsonl").open("a") as log:
        log.write(json.dumps({"track": {"loss.train": losses}, "time": 5, "elapsed": 1234.5}) + "\n")
    assert read_run(run).elapsed == 1234.5


def test_concurrent_checks_do_not_take_each_other_for_a_run(run: Path) -> None:
    code = "import sys, pathlib\nfrom labml_bn.records.folder import is_running\n"
    code += "print(sum(is_running(pathlib.Path(sys.argv[1])) for _ in range(1000)))"
    looking = [
        subprocess.Popen([sys.executable, "-c", code, str(run)], stdout=subprocess.PIPE, text=True) for _ in range(2)
    ]
    assert [process.communicate()[0] for process in looking] == ["0\n", "0\n"]


def test_running_while_the_lock_is_held(run: Path) -> None:
    assert not is_running(run)
    code = "import sys, filelock\nwith filelock.FileLock(sys.argv[1]): print('held', flush=True); input()"
    hold = [sys.executable, "-c", code, str(run / "run.lock")]
    with subprocess.Popen(hold, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        assert read_run(run).status == "running"
        (run / "run_log.jsonl").unlink()
        assert read_run(run).status == "running"
        holder.kill()
    assert read_run(run).status == "killed"


def test_a_run_that_ends_while_it_is_read(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is completed, not killed."""
    end = (run / "run_log.jsonl").read_bytes()
    (run / "run_log.jsonl").unlink()

    def asked_as_it_ends(folder: Path) -> bool:
        (folder / "run_log.jsonl").write_bytes(end)
        return False

    monkeypatch.setattr("labml_bn.records.record.is_running", asked_as_it_ends)
    assert read_run(run).status == "completed"


def test_names(trained: Path, tmp_path: Path) -> None:
    """Of runs with several seeds, each shows its own."""
    first, same, other = (
        another(trained, tmp_path, uuid, "08:00:00", **{"seed.seed": seed})
        for uuid, seed in {"aa": 5, "bb": 5, "cc": 7}.items()
    )
    name = read_run(first).name
    assert "seed" not in name
    assert names_of(map(read_run, (first, same))) == {first: name, same: name}
    for run, seed in {first: 5, other: 7}.items():
        assert f" seed={seed} " in names_of(map(read_run, (first, other)))[run]


def test_short_uuids(run: Path) -> None:
    record = read_run(run)

    def named(uuid: str) -> Record:
        return Record(Path("logs") / uuid, {}, {}, record.settings, 0, 0, 0, "completed", {})

    runs = [named("0123456789aa"), named("0123456789bb"), named("f" * 12)]
    assert list(short_uuids(runs).values()) == ["0123456789a", "0123456789b", "f" * 11]
    assert short_uuids([]) == {}
    alike = [named("col\x1b"), named(r"col\x1b")]  # both are shown in the same way
    assert short_uuids(alike) == {run.folder: r"col\x1b" for run in alike}


def test_times_that_no_clock_shows(run: Path) -> None:
    (run / "run.yaml").write_text("trial_date: '9999-12-31'\ntrial_time: '23:59:59'\n")
    (run / "log.jsonl").write_text('{"track": {}, "time": -1e14, "elapsed": -9e14}\n')
    record = read_run(run)
    (run / "run.yaml").write_text("name: x\n")
    for time in (0, 2**33, 253402300900):
        os.utime(run, (time, time))
        records = [record, read_run(run)]
        for one in records:
            datetime.fromtimestamp(one.started)
            datetime.fromtimestamp(one.ended)
            assert one.elapsed >= 0


def test_very_many_numbers(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As many as fit into the memory are read."""
    monkeypatch.setattr("labml_bn.records.record.MOST_NUMBERS", 100)
    lines = [{"track": {"a": [[step, [1.0] * 10]]}} for step in range(50)]
    (run / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert read_run(run).metrics()["a"].values.size == 100
