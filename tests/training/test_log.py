"""The file of the metrics: written by `flush`, completely or not at all."""

import json
import resource
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from labml.internal.tracker.indicators.numeric import Scalar

from labml_bn.cli.received import UnreadableError
from labml_bn.training.log import Log, Position


@pytest.fixture
def log(tmp_path: Path) -> Log:
    opened = Log()
    opened.open(tmp_path / "log.jsonl", Position())
    return opened


def add(log: Log, step: int, value: float) -> None:
    indicator = Scalar("loss.train", is_print=False)
    indicator.collect_value(value)
    log.write(global_step=step, indicators={"loss.train": indicator})


def test_a_line_per_flush(log: Log) -> None:
    add(log, 64, 0.5)
    add(log, 128, 0.25)
    assert log.path.read_text() == ""
    log.flush()
    log.flush()  # nothing new
    add(log, 192, 0.125)
    position = log.position()
    first, second = map(json.loads, log.path.read_text().splitlines())
    assert first["track"] == {"loss.train": [[64, [0.5]], [128, [0.25]]]}
    assert second["track"] == {"loss.train": [[192, [0.125]]]}
    assert 0 <= first["elapsed"] <= second["elapsed"] <= position.elapsed
    assert position.size == log.path.stat().st_size


def test_elapsed_continues_after_a_resume(log: Log) -> None:
    log.open(log.path, Position(0, 1000.0))
    assert 1000 <= log.elapsed < 1060


def deleted(path: Path) -> None:
    path.unlink()


def replaced(path: Path) -> None:
    copy = path.with_name("copy")
    copy.write_text("something else\n")
    copy.rename(path)


def replaced_by_a_link(path: Path) -> None:
    path.rename(path.with_name("moved"))
    path.symlink_to("elsewhere")


@pytest.mark.parametrize("damage", [deleted, replaced, replaced_by_a_link])
def test_deleted_while_it_is_written(
    log: Log, capsys: pytest.CaptureFixture[str], damage: Callable[[Path], None]
) -> None:
    """It is restored, with all that it had, and one line says so."""
    for step in (64, 128):
        add(log, step, 0.5)
        log.flush()
    damage(log.path)
    add(log, 192, 0.5)
    position = log.position()
    assert not log.path.is_symlink()
    entries = [json.loads(line) for line in log.path.read_text().splitlines()]
    assert [entry["track"]["loss.train"][0][0] for entry in entries] == [64, 128, 192]
    assert position.size == log.path.stat().st_size
    warning = f"warning: the log {log.path} was deleted or replaced by another process, and is restored\n"
    assert capsys.readouterr().err == warning
    log.flush()
    assert capsys.readouterr().err == ""
    assert not (log.path.parent / "elsewhere").exists()


def test_truncated_while_it_is_written(log: Log, capsys: pytest.CaptureFixture[str]) -> None:
    """A warning reports the loss once; the next lines follow."""
    add(log, 64, 0.5)
    size = log.position().size
    log.path.write_text("")
    add(log, 128, 0.5)
    assert log.position().size == log.path.stat().st_size
    warning = f"warning: the log {log.path} was changed by another process: it has 0 bytes instead of {size}\n"
    assert capsys.readouterr().err == warning
    (line,) = map(json.loads, log.path.read_text().splitlines())
    assert line["track"] == {"loss.train": [[128, [0.5]]]}


def test_not_through_a_link(log: Log, tmp_path: Path) -> None:
    (tmp_path / "theirs").write_text("theirs")
    (tmp_path / "link").symlink_to("theirs")
    with pytest.raises(UnreadableError, match="is a symbolic link"):
        log.open(tmp_path / "link", Position())
    assert (tmp_path / "theirs").read_text() == "theirs"


@pytest.fixture
def limited() -> Iterator[None]:
    """No file can grow beyond a thousand bytes."""
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    signal.signal(signal.SIGXFSZ, handler)


def test_a_line_that_does_not_fit_is_kept(log: Log, limited: None) -> None:
    add(log, 64, 0.5)
    log.flush()
    before = log.path.read_bytes()
    for step in range(65, 200):
        add(log, step, 0.5)
    with pytest.raises(OSError, match=r"File too large|No space left"):
        log.flush()
    assert log.path.read_bytes() == before
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
    log.flush()
    _, second = map(json.loads, log.path.read_text().splitlines())
    assert [step for step, _ in second["track"]["loss.train"]] == list(range(65, 200))
