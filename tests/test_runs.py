"""`python -m labml_bn.runs`, as a user runs it."""

import csv
import io
import json
import math
import re
import subprocess
import sys
from datetime import datetime
from pathlib import Path

import pandas as pd
import pytest

import labml_bn
from labml_bn.records import notes
from labml_bn.records.record import read_run
from tests.conftest import Run, another
from tests.terminal import on_a_terminal


def test_list_of_runs(logs: Path, command: Run) -> None:
    (logs / "batch_norm" / "aaaa0000" / "run_log.jsonl").unlink()
    done = command("runs")
    assert done.returncode == 0, done.stderr
    heading, newest, oldest = (re.split(r"  +", line) for line in done.stdout.splitlines())
    assert heading == ["run", "status", "epochs", "accuracy", "time", "started", "name"]
    assert newest[:3] == ["bbbb0000", "completed", "1/1"]
    assert newest[6] == "no_norm epochs=1 train_samples=6000 valid_samples=2000 lr=0.01 use_cuda=false"
    tests = read_run(logs / "batch_norm" / "bbbb0000").metrics("accuracy.test")["accuracy.test"]
    assert newest[3] == f"{tests.values[-1, 0]:.2%}"
    assert oldest[:2] == ["aaaa0000", "killed"]
    assert "there are no runs in elsewhere" in command("runs", "--logs", "elsewhere").stdout


def uuids(shown: str) -> list[str]:
    """The runs in a printed list."""
    return [line.split()[0] for line in shown.splitlines()[1:]]


def test_chosen_and_sorted(logs: Path, command: Run) -> None:
    for arguments, expected in (
        (["--where", "norm=none and accuracy.test>0.5"], ["bbbb0000"]),
        (["--where", "lr<0.1", "--sort", "lr"], ["aaaa0000", "bbbb0000"]),
        (["--sort", "lr", "--descending", "--limit", "1"], ["bbbb0000"]),
        (["--limit", "9"], ["bbbb0000", "aaaa0000"]),
    ):
        done = command("runs", *arguments)
        assert (done.returncode, done.stderr) == (0, "")
        assert uuids(done.stdout) == expected
    done = command("runs", "--columns", "run,lr,accuracy.test", "--sort", "run")
    heading, first, _ = (line.split() for line in done.stdout.splitlines())
    assert heading == ["run", "optimizer.learning_rate", "accuracy.test"]
    assert first[:2] == ["aaaa0000", "0.001"]
    assert command("runs", "--where", "norm=torch").stdout == "no run in logs matches norm=torch\n"


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["--where", "lrr=1"], "unknown column 'lrr': did you mean lr?"),
        (["--where", "lr=1 and"], "the expression needs a column, such as accuracy.test after 'lr=1 and', got the end"),
        (["--where", ""], "the expression needs a column, such as accuracy.test at the start, got the end"),
        (["--sort", ""], "unknown column ''"),
        (["--columns", ""], "unknown column ''"),
        (["--sort", "nothing"], "unknown column 'nothing'"),
        (["--columns", "run,,lr"], "unknown column ''"),
        (["--csv", "--columns", "x"], "unknown column 'x'"),
        (["--descending"], "--descending needs --sort COLUMN"),
        (["--limit", "0"], "--limit 0: write a number from 1 on"),
        (["--limit", "x"], "argument --limit: invalid int value: 'x'"),
        (["--csv", "--json"], "argument --json: not allowed with argument --csv"),
        (["--tag", "latest"], "argument --tag: expected 2 arguments"),
        (["--tag", "latest", "a,b"], "'a,b' cannot be a tag"),
        (["--tag", "latest", "a", "--limit", "3"], "--tag changes runs and lists no others"),
        (["--name", "lrr=1", "a"], "unknown column 'lrr'"),
    ],
)
def test_wrong_use(logs: Path, command: Run, arguments: list[str], error: str) -> None:
    done = command("runs", *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"error: {error}")
    assert done.stderr.count("\n") == 1


def test_csv_and_json(logs: Path, command: Run) -> None:
    """All columns with all digits, on standard output only."""
    assert command("runs", "--note", "aaaa0000", "=1+1").returncode == 0
    (logs / "batch_norm" / "bbbb0000" / "log.jsonl").unlink()
    outputs = {}
    for form in ("--csv", "--json"):
        done = command("runs", form)
        assert (done.returncode, done.stderr) == (0, "")
        outputs[form] = done.stdout
    runs = labml_bn.load_runs(logs)
    objects = json.loads(outputs["--json"])
    rows = list(csv.DictReader(io.StringIO(outputs["--csv"])))
    table = pd.read_csv(io.StringIO(outputs["--csv"]))
    assert list(objects[0]) == list(rows[0]) == list(table.columns) == runs.columns
    accuracy = runs[1].metrics("accuracy.test")["accuracy.test"].values[-1, 0]
    assert [one["accuracy.test"] for one in objects] == [None, accuracy]
    assert [one["accuracy.test"] for one in rows] == ["", repr(float(accuracy))]
    assert table["accuracy.test"].tolist() == pytest.approx([math.nan, accuracy], rel=0, abs=0, nan_ok=True)
    assert [one["started"] for one in objects] == [one["started"] for one in rows]
    assert [datetime.fromisoformat(one["started"]).timestamp() for one in objects] == [run.started for run in runs]
    assert [one["optimizer.learning_rate"] for one in objects] == table["optimizer.learning_rate"].tolist()
    assert (objects[1]["note"], rows[1]["note"]) == ("=1+1", "'=1+1")

    chosen = command("runs", "--csv", "--columns", "run,lr", "--where", "norm=none").stdout
    assert chosen == "run,optimizer.learning_rate\nbbbb0000,0.01\n"
    assert command("runs", "--json", "--where", "norm=torch", "--columns", "run").stdout == "[]\n"
    assert command("runs", "--csv", "--columns", "run", "--logs", "elsewhere").stdout == "run\n"


def test_output_into_head(logs: Path, work: Path, environment: dict[str, str]) -> None:
    """A reader that goes away is no error."""
    for number in range(60):
        another(logs / "batch_norm" / "aaaa0000", logs, f"{number:02}cc")
    line = f"set -o pipefail; {sys.executable} -m labml_bn.runs --json | head -1; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", line], cwd=work, env=environment, capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("[\n", "")
    assert done.returncode in {0, 1}


def test_names_tags_and_notes(logs: Path, command: Run) -> None:
    """They are shown in the list, can be searched for, and are removed again."""
    with (logs / "batch_norm" / "aaaa0000" / "run.yaml").open("a") as info:
        info.write("sweep: lr-norm\n")
    done = command("runs", "--tag", "norm=none", "good", "--tag", "bbbb", "γ 2", "--name", "bbbb", "best one")
    assert (done.returncode, done.stderr) == (0, "")
    assert uuids(done.stdout) == ["bbbb0000"]
    assert json.loads((logs / "batch_norm" / "bbbb0000" / "notes.json").read_text(encoding="utf-8")) == {
        "tags": ["good", "γ 2"],
        "name": "best one",
    }
    assert command("runs", "--note", "lr-norm", "first").returncode == 0  # a sweep
    heading, newest, oldest = (re.split(r"  +", line) for line in command("runs").stdout.splitlines())
    assert heading == ["run", "status", "epochs", "accuracy", "time", "started", "sweep", "tags", "note", "name"]
    assert newest[6:] == ["good, γ 2", "best one"]
    assert oldest[6:8] == ["lr-norm", "first"]
    assert uuids(command("runs", "--where", "tags=good").stdout) == ["bbbb0000"]
    assert uuids(command("runs", "--where", "name='best one'").stdout) == ["bbbb0000"]
    assert command("runs", "--untag", "latest:2", "good", "--name", "bbbb", "", "--note", "aaaa", "").returncode == 0
    heading, newest, _ = (re.split(r"  +", line) for line in command("runs").stdout.splitlines())
    assert heading[6:] == ["sweep", "tags", "name"]
    assert newest[6:] == ["γ 2", read_run(logs / "batch_norm" / "bbbb0000").name]


def test_characters_that_the_encoding_lacks(logs: Path, work: Path, environment: dict[str, str]) -> None:
    notes.write(logs / "batch_norm" / "bbbb0000", {"name": "γ is 1"})
    ascii_only = {**environment, "PYTHONIOENCODING": "ascii"}
    for arguments, expected in (
        (["--limit", "1"], "\\u03b3 is 1"),
        (["--csv"], "\\u03b3 is 1"),
        (["--json"], "u03b3 is 1"),
    ):
        command = [sys.executable, "-m", "labml_bn.runs", *arguments]
        done = subprocess.run(command, cwd=work, env=ascii_only, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, "")
        assert expected in done.stdout


def test_a_folder_that_cannot_be_written_to(logs: Path, command: Run) -> None:
    (logs / "batch_norm" / "bbbb0000" / "notes.json").mkdir()
    done = command("runs", "--tag", "bbbb", "good")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "error: cannot write logs/batch_norm/bbbb0000/notes.json: Is a directory\n"


@pytest.mark.parametrize("command", ["labml_bn.runs", "labml_bn.train --list"])
@pytest.mark.parametrize("columns", [60, 80, 200])
def test_on_a_terminal(logs: Path, work: Path, environment: dict[str, str], command: str, columns: int) -> None:
    """Nothing is wider than the terminal, and nothing is left out."""
    for number, run in enumerate(sorted((logs / "batch_norm").iterdir())):
        notes.write(run, {"tags": ["first", "second"], "note": "a note of many words " * (5 * number)})
    python = [sys.executable, "-m", *command.split()]
    status, text = on_a_terminal(columns, python, work, environment)
    lines = text.splitlines()
    assert status == 0
    assert max(map(len, lines)) <= columns
    piped = subprocess.run(python, cwd=work, env=environment, capture_output=True, text=True, check=True).stdout
    assert "\n".join(lines).split() == piped.split()
    assert max(map(len, piped.splitlines())) > 120
