"""Random changes of a run's files: reading them ends with a result or in one line."""

import csv
import io
import json
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from labml_bn.cli.errors import UserError
from labml_bn.records.comparison import page
from labml_bn.records.comparison.curves import figure_of_groups, figure_of_runs
from labml_bn.records.comparison.measured import read_groups
from labml_bn.records.comparison.page_data import make_data
from labml_bn.records.comparison.rows import group_rows, run_rows, sentences
from labml_bn.records.folder import list_runs
from labml_bn.records.formats import as_csv, as_json
from labml_bn.records.record import Record, names_of, read_runs
from labml_bn.records.table import RunTable
from labml_bn.trained import checkpoints
from labml_bn.trained.data import find_data
from labml_bn.trained.weights import WEIGHTS, load_weights

# The run is the same for all examples; each rewrites the file that it changes.
fuzz = settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=20), inner, max_size=5),
    max_leaves=20,
)


@pytest.fixture
def run(tiny: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny, tmp_path / "logs" / "batch_norm" / "run"))


@st.composite
def damaged(draw: st.DrawFn, content: bytes) -> bytes:
    """The content with a part replaced."""
    start = draw(st.integers(0, len(content)))
    end = draw(st.integers(start, min(len(content), start + 200)))
    return content[:start] + draw(st.binary(max_size=200)) + content[end:]


def read_everything(run: Path) -> list[Record]:
    """What `runs`, `compare` and `evaluate` read."""
    records = read_runs(list_runs(run.parents[1]))
    names_of(records)
    for record in records:
        assert record.status in {"completed", "interrupted", "crashed", "killed"}
        record.metrics("accuracy.test")
        find_data(run, record.settings)
    table = RunTable(records).where("accuracy.test>0 or not tags=x").sort("name").to_dict()
    csv.field_size_limit(32_767)
    assert len(list(csv.reader(io.StringIO(as_csv(table))))) == 1 + len(json.loads(as_json(table)))
    assert "<script" not in RunTable(records)._repr_html_()
    if records:
        metrics = {record.folder: record.metrics() for record in records}
        groups = read_groups(records, metrics)
        group_rows(groups)
        run_rows(groups, records)
        sentences(groups)
        page.html(page.as_json(make_data(records, list(metrics.values()))))
    return records


@pytest.mark.parametrize("name", ["run.yaml", "configs.yaml", "run_log.jsonl", "log.jsonl"])
@fuzz
@given(data=st.data())
def test_a_damaged_record(run: Path, tiny: Path, name: str, data: st.DataObject) -> None:
    (run / name).write_bytes(data.draw(damaged((tiny / name).read_bytes()) | st.binary(max_size=200)))
    assert len(read_everything(run)) == 1


@pytest.mark.parametrize("name", ["run.yaml", "configs.yaml"])
@fuzz
@given(data=st.data())
def test_a_record_of_other_values(run: Path, tiny: Path, name: str, data: st.DataObject) -> None:
    content: dict[str, Any] = yaml.safe_load((tiny / name).read_text())
    changed = data.draw(st.dictionaries(st.sampled_from(sorted(content)), JSON, min_size=1, max_size=3))
    for key, value in changed.items():
        entry = content[key]
        content[key] = {**entry, "value": value, "computed": value} if isinstance(entry, dict) else value
    (run / name).write_text(yaml.safe_dump(content))
    read_everything(run)


@fuzz
@given(written=st.dictionaries(st.sampled_from(["name", "note", "tags", "comment"]), JSON | st.lists(st.text())))
def test_notes_of_other_values(run: Path, written: dict[str, Any]) -> None:
    (run / "notes.json").write_text(json.dumps(written))
    assert len(read_everything(run)) == 1


METRICS = st.sampled_from(["loss.train", "accuracy.test", "accuracy.held_out", "bn.norm1.running_var", "bn.x", ""])
POINTS = st.lists(st.tuples(st.integers(), st.lists(st.floats(), max_size=3)).map(list) | JSON, max_size=4)
LINES = st.lists(
    st.fixed_dictionaries({"track": st.dictionaries(METRICS, POINTS | JSON, max_size=4) | JSON, "time": JSON}),
    max_size=3,
)


@fuzz
@given(lines=LINES)
def test_a_log_of_other_values(run: Path, lines: list[Any]) -> None:
    (run / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (record,) = read_everything(run)
    for series in record.metrics().values():
        assert len(series.steps) == len(series.values) > 0
        assert series.percentiles().shape == (3, len(series.steps))


@pytest.mark.slow
@settings(deadline=None, max_examples=3, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(lines=LINES)
def test_the_figure_of_other_values(run: Path, lines: list[Any]) -> None:
    with (run / "log.jsonl").open("a") as log:
        log.write("".join(json.dumps(line) + "\n" for line in lines))
    records = read_everything(run)
    figure_of_runs(read_groups(records), records).savefig(io.BytesIO())
    figure_of_groups(read_groups(records)).savefig(io.BytesIO())


@fuzz
@given(data=st.data())
def test_damaged_checkpoints(run: Path, tiny: Path, data: st.DataObject) -> None:
    """Any bytes of the file, which its checksums reveal."""
    original = max((tiny / "checkpoints").glob("*.pt"))
    path = run / "checkpoints" / original.name
    path.write_bytes(data.draw(damaged(original.read_bytes())))
    check_one_line(path)


@fuzz
@given(data=st.data())
def test_checkpoints_whose_checksums_are_right(run: Path, tiny: Path, data: st.DataObject) -> None:
    original = max((tiny / "checkpoints").glob("*.pt"))
    path = run / "checkpoints" / original.name
    with zipfile.ZipFile(original) as archive, zipfile.ZipFile(path, "w") as written:
        for entry in archive.infolist():
            content = archive.read(entry)
            if entry.filename.endswith("data.pkl"):
                content = data.draw(damaged(content))
            written.writestr(entry.filename, content)
    check_one_line(path)


def refusal(read: Callable[[Path], object], path: Path) -> str | None:
    """Why a file is refused; None if it is read."""
    try:
        read(path)
    except UserError as error:
        return str(error)
    return None


def check_one_line(path: Path) -> None:
    reason = refusal(checkpoints.read, path)
    assert reason is None or (str(path) in reason and "\n" not in reason)


@fuzz
@given(data=st.data())
def test_damaged_weights(run: Path, tiny: Path, data: st.DataObject) -> None:
    content = (tiny / WEIGHTS).read_bytes()
    changed = data.draw(damaged(content) | damaged(content[:2000]).map(lambda head: head + content[2000:]))
    (run / WEIGHTS).write_bytes(changed)
    reason = refusal(load_weights, run / WEIGHTS)
    assert "\n" not in (reason or "")
    assert reason is not None or changed == content
