import json
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from experiments.machinery import catalogue, trials
from experiments.machinery.trials import Trials
from labml_bn.cli.errors import UserError
from tests.experiments.machinery.conftest import BeginLab, Lab


def stored() -> list[Path]:
    return sorted(Path("logs/experiments/seeds/bias").glob("*/[0-9]*.json"))


@pytest.mark.slow
def test_an_interrupted_experiment_resumes(begin_lab: BeginLab, lab: Lab) -> None:
    options = ["bias", "--quick", "--jobs", "1", "--seeds"]
    process = begin_lab(*options, "500")
    while not stored():
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=60)
    again = "python -m experiments bias --quick --jobs 1 --seeds 500"
    assert (process.returncode, error) == (
        130,
        f"interrupted: what was measured is stored; continue with: {again}\n",
    )
    done = {path: path.read_text() for path in stored()}
    finished = lab(*options, str(len(done) + 1))
    assert (finished.returncode, finished.stderr) == (0, "")
    assert len(stored()) == len(done) + 1
    assert all(path.read_text() == content for path, content in done.items())


@pytest.fixture
def small_disk(folder: Path) -> Iterator[None]:
    """The logs on a disk with room for a few files."""
    command = ["mount", "-t", "tmpfs", "-o", "size=16k", "tmpfs", "logs"]
    Path("logs").mkdir()
    if shutil.which("mount") is None or subprocess.run(command, capture_output=True, check=False).returncode != 0:
        pytest.skip("mounting a disk is not permitted here")
    yield
    subprocess.run(["umount", "-l", str(folder / "logs")], check=True)


@pytest.mark.slow
def test_a_full_disk_loses_nothing_that_was_finished(small_disk: None, lab: Lab) -> None:
    full = lab("bias", "--quick", "--jobs", "2", "--seeds", "8")
    assert full.returncode == 1
    (line,) = full.stderr.splitlines()
    assert line.startswith("error: bias, seed ")
    assert line.endswith(": No space left on device")
    done = {path: path.read_text() for path in stored()}
    assert done
    assert all(json.loads(content)["measured"] for content in done.values())
    subprocess.run(["mount", "-o", "remount,size=10m", "logs"], check=True)
    assert lab("bias", "--quick", "--jobs", "2", "--seeds", "8").returncode == 0
    assert len(stored()) == 8
    assert all(path.read_text() == content for path, content in done.items())


def test_other_code_or_another_size_is_measured_again(monkeypatch: pytest.MonkeyPatch) -> None:
    entry = catalogue.find("bias")
    first = Trials(entry, 2, {"batch": 16}, Path("logs"))
    trials.store(first.folder / "1.json", {"measured": {"a": 1.0}, "started": 0, "ended": 1})
    assert list(Trials(entry, 5, {"batch": 16}, Path("logs")).stored()) == [1]  # whatever the number of seeds
    assert not Trials(entry, 2, {"batch": 32}, Path("logs")).stored()
    monkeypatch.setattr(catalogue.Entry, "code", lambda self: "other")
    assert not Trials(entry, 2, {"batch": 16}, Path("logs")).stored()


def test_a_damaged_file_is_measured_again() -> None:
    some = Trials(catalogue.find("bias"), 2, {}, Path("logs"))
    some.folder.mkdir(parents=True)
    (some.folder / "1.json").write_text('{"measured": ')
    assert not some.stored()


def test_numbers_without_a_word_in_json() -> None:
    """They are null, and NaN when they are read."""
    trials.store(Path("1.json"), {"measured": {"a": float("nan"), "b": [1.0, float("inf")]}, "started": 0, "ended": 1})
    content = json.loads(Path("1.json").read_text())
    assert content["measured"] == {"a": None, "b": [1.0, None]}
    assert str(trials.found({1: content})["b"].tolist()) == "[[1.0, nan]]"


def test_the_time_is_that_in_which_a_seed_was_measured() -> None:
    """Not the pause before it was resumed, and what was at the same time counts once."""
    times = [(0, 10), (5, 12), (100, 101), (6, 7)]
    assert trials.seconds({n: {"started": a, "ended": b} for n, (a, b) in enumerate(times)}) == 13


def test_what_cannot_be_written() -> None:
    Path("logs").write_text("a file")
    with pytest.raises(UserError, match=r"cannot write logs/a.json: (File exists|Not a directory)"):
        trials.store(Path("logs/a.json"), {})
