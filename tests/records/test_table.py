"""`labml_bn.load_runs`: runs as a table, against the same from each run's folder."""

import builtins
import math
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

import labml_bn
from labml_bn.cli.errors import UsageError, UserError
from labml_bn.records import notes
from labml_bn.records.record import read_run
from labml_bn.records.table import RunTable
from tests.conftest import another

NORMS = ["none", "torch", "batch_norm"]


@pytest.fixture
def runs(trained: Path, tmp_path: Path) -> RunTable:
    """Five runs that differ; the oldest has no metrics."""
    logs = tmp_path / "logs"
    for number in range(5):
        settings = {"norm": NORMS[number % 3], "optimizer.learning_rate": 10.0**-number}
        run = another(trained, logs, f"{number}abc", f"{8 + number:02}:00:00", **settings)
        log = run / "log.jsonl"
        line = f'{{"track": {{"accuracy.test": [[9000, [{number / 10}]]]}}}}\n'
        log.write_text(log.read_text() + line if number else "")
    return labml_bn.load_runs(logs)


def names(runs: RunTable) -> list[str]:
    return [run.uuid for run in runs]


def test_completion_by_the_tab_key() -> None:
    """`load_runs` and the layer are imported on first use, and found before."""
    code = "import labml_bn; print(set(labml_bn.__all__) <= set(dir(labml_bn)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "True\n"


def test_a_sequence_of_runs(runs: RunTable) -> None:
    assert names(runs) == ["4abc", "3abc", "2abc", "1abc", "0abc"]  # the newest first
    assert len(runs) == 5
    assert runs[-1].settings == read_run(runs[-1].folder).settings
    assert names(runs[1:3]) == ["3abc", "2abc"]
    assert isinstance(runs[:2], RunTable)
    series = runs[0].metrics("accuracy.test")["accuracy.test"]
    assert series.values[-1, 0] == 0.4


def test_columns(runs: RunTable) -> None:
    assert runs.columns[:9] == ["run", "name", "status", "sweep", "tags", "note", "started", "time", "epochs_done"]
    assert {"optimizer.learning_rate", "accuracy.test", "best.loss.train"} < set(runs.columns)
    assert runs.column("lr") == [1e-4, 1e-3, 1e-2, 1e-1, 1]
    *accuracies, missing = runs.column("accuracy.test")
    assert accuracies == [0.4, 0.3, 0.2, 0.1]
    assert math.isnan(missing)
    assert runs.column("epochs_done") == [2, 2, 2, 2, 0]
    table = runs.to_dict()
    assert list(table) == runs.columns
    assert table["norm"] == ["torch", "none", "batch_norm", "torch", "none"]
    assert list(runs.to_dict(["lr", "run"])) == ["optimizer.learning_rate", "run"]
    with pytest.raises(UsageError, match=r"unknown column 'accuracy\.tset': did you mean accuracy\.test"):
        runs.column("accuracy.tset")


def test_where(runs: RunTable) -> None:
    assert names(runs.where("norm=none and accuracy.test>0.1")) == ["3abc"]
    assert names(runs.where("norm=none or lr<0.001")) == ["4abc", "3abc", "0abc"]
    assert names(runs.where("not accuracy.test>0.2")) == ["2abc", "1abc"]
    assert len(runs.where("epochs_done=7")) == 0
    with pytest.raises(UsageError, match="unknown column"):
        runs.where("lrr=1")


def test_sort(runs: RunTable) -> None:
    """Runs that have no value are last in either order; equal ones keep their order."""
    assert names(runs.sort("accuracy.test")) == ["1abc", "2abc", "3abc", "4abc", "0abc"]
    assert names(runs.sort("accuracy.test", descending=True)) == ["4abc", "3abc", "2abc", "1abc", "0abc"]
    assert names(runs.sort("norm")) == ["2abc", "3abc", "0abc", "4abc", "1abc"]
    assert names(runs.sort("started")) == ["0abc", "1abc", "2abc", "3abc", "4abc"]
    notes.write(runs[2].folder, {"tags": ["a"]})
    assert names(labml_bn.load_runs(runs[2].folder.parents[1]).sort("tags"))[0] == "2abc"


def test_pandas(runs: RunTable) -> None:
    frame = runs.to_pandas()
    assert frame.index.tolist() == names(runs)
    assert frame["accuracy.test"].max() == 0.4
    assert str(frame["started"].dtype).startswith("datetime64")
    assert frame.groupby("norm")["accuracy.test"].mean()["torch"] == pytest.approx(0.25)


def test_without_pandas(runs: RunTable, monkeypatch: pytest.MonkeyPatch) -> None:
    imported = builtins.__import__

    def without(name: str, *rest: Any, **named: Any) -> Any:
        if name == "pandas":
            raise ModuleNotFoundError(name="pandas")
        return imported(name, *rest, **named)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(UserError, match=r"^pandas is not installed: pip install 'labml-bn\[pandas\]'$"):
        runs.to_pandas()
    assert isinstance(runs.to_dict(), Mapping)


def test_as_text_and_in_a_notebook(runs: RunTable) -> None:
    heading, *lines = repr(runs).splitlines()
    assert heading.split() == ["run", "status", "epochs", "accuracy", "time", "started", "name"]
    assert [line.split()[0] for line in lines] == names(runs)
    notes.write(runs[0].folder, {"name": "<script>alert(1)</script>"})
    page = labml_bn.load_runs(runs[0].folder.parents[1])._repr_html_()
    assert "<th>norm</th><th>lr</th>" in page
    assert "&lt;script&gt;" in page
    assert "<script" not in page
    many = RunTable([*runs] * 21)
    assert "... and 5 more runs" in many._repr_html_()
    assert repr(many).splitlines()[-1] == "... and 5 more runs"
    assert page.count("<tr>") == 6
    assert repr(runs[:0]) == "no runs"
    assert "no runs" in runs[:0]._repr_html_()


def test_no_folder(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^there is no folder .*nowhere$"):
        labml_bn.load_runs(tmp_path / "nowhere")
    assert len(labml_bn.load_runs(tmp_path)) == 0
