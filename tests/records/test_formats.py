"""CSV and JSON of runs, read by the programs that read them."""

import csv
import io
import json
import math
from datetime import datetime, timezone
from typing import Any

import pandas as pd
import pytest

from labml_bn.records.formats import as_csv, as_json

TABLE: dict[str, list[Any]] = {
    "run": ["aa", "bb"],
    "name": ['a "b", c', "γ\x1b[2J\n\u202e"],
    "tags": [["x", "y z"], []],
    "started": [datetime(2026, 1, 31, 12, tzinfo=timezone.utc), datetime(2026, 7, 1, tzinfo=timezone.utc)],
    "epochs": [1, 20],
    "lr": [0.1 + 0.2, 1e-08],
    "use_cuda": [True, False],
    "betas": [[0.9, 0.999], [0.5, 0.1]],
    "accuracy.test": [0.9876543210123456, math.nan],
    "loss.test": [-0.5, math.inf],
}


def test_csv() -> None:
    text = as_csv(TABLE)
    heading, first, second = csv.reader(io.StringIO(text))
    assert heading == list(TABLE)
    numbers = ["0.30000000000000004", "true", "[0.9,0.999]", "0.9876543210123456", "-0.5"]
    assert first == ["aa", 'a "b", c', "x, y z", "2026-01-31T12:00:00+00:00", "1", *numbers]
    assert second[1:3] == ["γ\\x1b[2J\\n\\u202e", ""]
    assert second[-2:] == ["", ""]
    table = pd.read_csv(io.StringIO(text), parse_dates=["started"])
    for name in ("epochs", "lr", "use_cuda", "accuracy.test"):
        assert table[name].tolist() == pytest.approx(TABLE[name], rel=0, abs=0, nan_ok=True)
    assert table["started"].tolist() == TABLE["started"]


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@x", "=cmd|' /C calc'!A0"])
def test_a_text_of_csv_is_no_formula(text: str) -> None:
    """For a spreadsheet, a text with an apostrophe before it is a text."""
    rows = list(csv.reader(io.StringIO(as_csv({"note": [text, "1=1"], "tags": [[text], []]}))))
    assert rows[1:] == [[f"'{text}"] * 2, ["1=1", ""]]


def test_a_text_of_csv_fits_a_cell() -> None:
    (cell,) = list(csv.reader(io.StringIO(as_csv({"note": ["=" + "x" * 10**6]}))))[1]
    assert len(cell) == 32_767


def test_json() -> None:
    text = as_json(TABLE)
    assert text.isascii()
    assert "\x1b" not in text
    first, second = json.loads(text)
    assert first == {
        **{name: values[0] for name, values in TABLE.items()},
        "started": "2026-01-31T12:00:00+00:00",
    }
    assert second["name"] == TABLE["name"][1]
    assert (second["accuracy.test"], second["loss.test"]) == (None, None)
    assert json.loads(as_json({"run": []})) == []
