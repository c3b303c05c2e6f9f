"""Texts from run folders do no harm on the page."""

import datetime
from typing import Any

import pytest

from labml_bn.dashboard.texts import harmless


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("two\nlines\tγ 👍🏽 שלום", "two\nlines\tγ 👍🏽 שלום"),
        ("\x1b[2J\r\0\x9b", "\\x1b[2J\\r\\x00\\x9b"),
        ("\ud800", "\\ud800"),
        ("\u202egnp.exe\u2069", "\\u202egnp.exe\\u2069"),
        ([1, 2.5, True, None], [1, 2.5, True, None]),
        ([float("nan"), float("-inf")], ["nan", "-inf"]),
        ({1: {"\0": datetime.date(2020, 1, 2)}}, {"1": {"\\x00": "2020-01-02"}}),
    ],
)
def test_harmless(value: Any, expected: Any) -> None:
    assert harmless(value) == expected
