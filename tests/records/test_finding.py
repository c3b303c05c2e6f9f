"""Finding several runs: names, sweeps, patterns, the newest ones; and writing about them."""

from pathlib import Path

import pytest

from labml_bn.cli.errors import UsageError, UserError
from labml_bn.records import notes
from labml_bn.records.finding import find_runs, write_notes
from tests.conftest import another


@pytest.fixture
def logs(trained: Path, tmp_path: Path) -> Path:
    """Three runs, the newest neither first nor last by name; the first two are a sweep."""
    logs = tmp_path / "logs"
    another(trained, logs, "aa11", "08:00:00")
    another(trained, logs, "bb", "09:00:00", norm="none", **{"optimizer.learning_rate": 0.01})
    another(trained, logs, "aa22", "10:00:00", norm="none")
    for uuid in ("bb", "aa11"):
        with (logs / "batch_norm" / uuid / "run.yaml").open("a") as info:
            info.write("sweep: a\n")
    return logs


def found(logs: Path, *names: str) -> list[str]:
    return [run.name for run in find_runs(names, logs)]


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["latest:2"], ["bb", "aa22"]),
        (["latest:9"], ["aa11", "bb", "aa22"]),
        (["bb", "latest", "aa1", "b"], ["bb", "aa22", "aa11"]),
        (["aa22", "latest:2"], ["aa22", "bb"]),
    ],
)
def test_several(logs: Path, names: list[str], expected: list[str]) -> None:
    assert found(logs, *names) == expected


def test_several_not_found(logs: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there are no runs in"):
        find_runs(["latest:2"], tmp_path / "none")
    for name in ("latest:x", "latest:0", "latest:", "latest:-1"):
        with pytest.raises(UsageError, match=f"^{name}: write latest:N for the N newest runs, N at least 1"):
            find_runs([name], logs)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a", ["aa11", "bb"]),  # the sweep, not the beginning of two uuids
        ("sweep=a", ["aa11", "bb"]),
        ("norm=none", ["bb", "aa22"]),
        ("norm=none and lr<0.01", ["aa22"]),
        ("accuracy.test>0.5", ["aa11", "bb", "aa22"]),
    ],
)
def test_sweeps_and_patterns(logs: Path, name: str, expected: list[str]) -> None:
    assert found(logs, name) == expected
    assert found(logs, "aa22", name) == ["aa22", *[uuid for uuid in expected if uuid != "aa22"]]


def test_a_sweep_is_in_the_order_of_its_settings(trained: Path, tmp_path: Path) -> None:
    """Not in that of its runs' starts or names: by the option of a word, then the size of a number."""
    settings = [("none", 0.003), ("batch_norm", 0.01), ("torch", 0.0001), ("batch_norm", 0.003), ("batch_norm", 0.0001)]
    for number, (norm, rate) in enumerate(settings):
        run = another(trained, tmp_path, f"{number}f", "08:00:00", norm=norm, **{"optimizer.learning_rate": rate})
        with (run / "run.yaml").open("a") as info:
            info.write("sweep: rates\n")
    assert found(tmp_path, "rates") == ["4f", "3f", "1f", "2f", "0f"]


def test_patterns_that_find_nothing(logs: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^no run in .*logs matches norm=torch$"):
        find_runs(["norm=torch"], logs)
    with pytest.raises(UsageError, match=r"^unknown column 'nrm': did you mean norm"):
        find_runs(["nrm=none"], logs)
    with pytest.raises(UserError, match="there are no runs in"):
        find_runs(["norm=none"], tmp_path / "none")
    with pytest.raises(UserError, match=r"^no run in .* begins with 'c'; the latest is aa22; sweeps: a$"):
        find_runs(["c"], logs)


def test_writing_about_runs(logs: Path) -> None:
    """All changes of a run count, and those of a sweep go to all its runs."""
    folder = logs / "batch_norm"
    notes.write(folder / "bb", {"tags": ["old"], "note": "looked at"})
    changes = [("name", "bb", "mine"), ("tag", "a", "x"), ("tag", "norm=none", "y"), ("untag", "bb", "old")]
    assert [run.name for run in write_notes(changes, logs)] == ["bb", "aa11", "aa22"]
    assert notes.read(folder / "bb") == {"tags": ["x", "y"], "note": "looked at", "name": "mine"}
    assert notes.read(folder / "aa11") == {"tags": ["x"]}
    assert notes.read(folder / "aa22") == {"tags": ["y"]}


def test_wrong_changes_write_nothing(logs: Path) -> None:
    for wrong, error in (
        (("tag", "aa11", "a,b"), "'a,b' cannot be a tag: write 1 to 100 characters, no comma"),
        (("tag", "aa11", ""), "'' cannot be a tag"),
        (("name", "aa11", "x" * 201), "cannot be a name: write at most 200 printable characters"),
        (("note", "aa11", "\ud800"), "cannot be a note: it is not valid UTF-8"),
        (("tag", "nothing", "x"), "begins with 'nothing'"),
    ):
        with pytest.raises(UserError, match=error):
            write_notes([("tag", "bb", "good"), wrong], logs)
    assert notes.read(logs / "batch_norm" / "bb") == {}
    (logs / "batch_norm" / "bb" / "notes.json").mkdir()
    with pytest.raises(UserError, match=r"^cannot write .*bb/notes.json: Is a directory"):
        write_notes([("tag", "bb", "good")], logs)
