"""Expressions that choose runs: against the same in Python, and whatever a user can type."""

import math
import re
from collections.abc import Callable
from datetime import datetime, timezone
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from labml_bn.cli.errors import UsageError
from labml_bn.records.columns import Column
from labml_bn.records.query import parse

#: Three rows, as the columns below read them.
ROWS: list[Any] = [
    SimpleNamespace(name="a", lr=0.1, n=1, flag=True, betas=[0.9, 0.999], tags=["x", "and"], kind="Adam", acc=0.9),
    SimpleNamespace(name="b c", lr=0.01, n=2, flag=False, betas=[0.8, 0.99], tags=[], kind="SGD", acc=math.nan),
    SimpleNamespace(name="c=d", lr=0.1, n=3, flag=False, betas=[0.9, 0.999], tags=["x"], kind="SGD", acc=0.99),
]
for hour, row in enumerate(ROWS):
    row.started = datetime(2026, 1, 31, hour, tzinfo=timezone.utc)

TYPES = {
    **{"name": str, "lr": float, "n": int, "flag": bool, "betas": list, "tags": set, "acc": float, "kind": str},
    "started": datetime,
}


def find(name: str) -> Column:
    if name not in TYPES:
        raise UsageError(f"unknown column {name}")
    return Column(name, TYPES[name], lambda run: getattr(run, name), ["Adam", "SGD"] if name == "kind" else [])


def chosen(expression: str) -> list[int]:
    test = parse(expression, find)
    return [row.n for row in ROWS if test(row)]


@pytest.mark.parametrize(
    ("expression", "holds"),
    [
        ("lr=0.1", lambda row: row.lr == 0.1),
        ("lr == 1e-1", lambda row: row.lr == 0.1),
        ("lr!=0.1", lambda row: row.lr != 0.1),
        ("n>=2", lambda row: row.n >= 2),
        ("n<2.5", lambda row: row.n < 2.5),
        ("n <= 1", lambda row: row.n <= 1),
        ("flag=true", lambda row: row.flag),
        ("flag!=True", lambda row: not row.flag),
        ("kind=adam", lambda row: row.kind == "Adam"),
        ("kind!=sgd", lambda row: row.kind != "SGD"),
        ("betas=[0.9,0.999]", lambda row: row.betas == [0.9, 0.999]),
        ("betas != [0.9, 0.999]", lambda row: row.betas != [0.9, 0.999]),
        ("tags=x", lambda row: "x" in row.tags),
        ("tags!=x", lambda row: "x" not in row.tags),
        ("tags=and", lambda row: "and" in row.tags),
        ("name='b c'", lambda row: row.name == "b c"),
        ('name="c=d" or name=a', lambda row: row.name in {"c=d", "a"}),
        ("started>'2026-01-31 00:30+00:00'", lambda row: row.started.hour >= 1),
        ("started<2026-01-30", lambda row: False),
        ("lr=0.1 and n>1", lambda row: row.lr == 0.1 and row.n > 1),
        ("n=1 or n=2 and lr=0.1", lambda row: row.n == 1 or (row.n == 2 and row.lr == 0.1)),
        ("(n=1 or n=2) and lr=0.1", lambda row: (row.n == 1 or row.n == 2) and row.lr == 0.1),
        ("not n=1 and lr=0.1", lambda row: row.n != 1 and row.lr == 0.1),
        ("NOT (n=1 OR n=2)", lambda row: row.n == 3),
        ("not not n=1", lambda row: row.n == 1),
        # A metric that is missing: neither the comparison nor its negation holds.
        ("acc>0.95", lambda row: row.acc > 0.95),
        ("acc!=0.9", lambda row: row.n == 3),
        ("not acc>0.95", lambda row: row.n == 1),
        ("acc>0.95 or n=2", lambda row: row.n in {2, 3}),
        ("not (acc>0.95 and n=1)", lambda row: row.n in {1, 2, 3}),
    ],
)
def test_expressions(expression: str, holds: Callable[[Any], bool]) -> None:
    assert chosen(expression) == [row.n for row in ROWS if holds(row)]


@pytest.mark.parametrize(
    ("expression", "error"),
    [
        ("", "the expression needs a column, such as accuracy.test at the start, got the end"),
        ("lr", "the expression needs an operator (= == != < <= > >=) after 'lr', got the end"),
        ("lr=", "the expression needs a value after 'lr=', got the end"),
        ("lr==", "the expression needs a value after 'lr==', got the end"),
        ("lr=1 and", "the expression needs a column, such as accuracy.test after 'lr=1 and', got the end"),
        ("lr=1 n=2", "the expression needs `and` or `or` (quote a value that has spaces) after 'lr=1', got 'n'"),
        ("(lr=1", "the expression needs `)`, `and` or `or` after '(lr=1', got the end"),
        ("lr=1)", "the expression needs `and` or `or` after 'lr=1', got ')'"),
        ("lr=(1)", "the expression needs a value after 'lr=', got '('"),
        ("'lr'=1", "the expression needs a column, such as accuracy.test at the start, got 'lr'"),
        ("name='a", 'the expression has a "\'" that is not closed: "\'a"'),
        ("betas=[1", "the expression has a '[' that is not closed: '[1'"),
        ("lr!1", "the expression has a '!' that has no meaning here (quote a value that contains it): '!1'"),
        ("nothing=1", "unknown column nothing"),
        ("lr=high", "lr is a number, not 'high'"),
        ("lr=nan", "lr is a number, not 'nan'"),
        ("flag=1", "flag is true or false, not '1'"),
        ("betas=0.9", "betas is a list like [0.8,0.9], not '0.9'"),
        ("betas=[a]", "betas is a list like [0.8,0.9], not '[a]'"),
        ("kind=RMSprop", "kind is one of Adam, SGD, not 'RMSprop'"),
        ("started<yesterday", "started is a time like 2026-01-31 or '2026-01-31 12:00', not 'yesterday'"),
        ("name<b", "name has no order: compare it by = or !=, not by <"),
        ("tags>x", "tags has no order: compare it by = or !=, not by >"),
        ("x" * 10_001, "the expression has 10,001 characters, more than 10,000"),
        ("(" * 60 + "n=1" + ")" * 60, "the expression is nested more than 50 deep"),
        ("not " * 60 + "n=1", "the expression is nested more than 50 deep"),
        ("n=" + "1" * 9000, None),
        ("n=1 or " * 1200 + "n=1", None),
        ("(" * 40 + "n=1" + ")" * 40, None),
    ],
    ids=lambda value: value[:30] if isinstance(value, str) else None,
)
def test_malformed_expressions(expression: str, error: str | None) -> None:
    if error is None:
        chosen(expression)
    else:
        with pytest.raises(UsageError, match=f"^{re.escape(error)}$"):
            parse(expression, find)


def test_a_megabyte_is_refused_at_once() -> None:
    for text in ("(" * 10**6, "lr=1 and " * 10**5, "[" * 10**6):
        with pytest.raises(UsageError, match="more than 10,000"):
            parse(text, find)


WORDS = st.sampled_from(
    [*TYPES, *("and", "or", "not", "(", ")", "=", "==", "!=", "<", ">=", "0.1", "true", "[0.9]", "x", "'b c'", "2026")]
)


@settings(deadline=None, max_examples=500)
@given(st.text() | st.lists(WORDS, max_size=12).map(" ".join) | st.lists(WORDS, max_size=12).map("".join))
def test_nothing_but_a_line(expression: str) -> None:
    """Whatever is typed, it chooses runs, or one line says what is wrong."""
    answer, message = set(), ""
    try:
        test = parse(expression, find)
        answer = {test(row) for row in ROWS}
    except UsageError as error:
        message = str(error)
    assert answer <= {True, False, None}
    assert bool(answer) != bool(message)
    assert "\n" not in message
    assert len(message) < 300
