"""Expressions that choose runs: `norm=none and accuracy.test>0.99`, `not (lr<0.01 or tags=first)`.

A comparison is a column (`columns.py`), one of the operators = != < <= > >=, and a value as on the command line; `==`
is `=`. A value with spaces is quoted. `tags=first` holds for a run that has the tag, among others. Comparisons are
joined by `not`, `and` and `or`, which bind in this order, and parentheses.

A comparison with a value that a run lacks, such as a metric that it has not logged, is neither true nor false, as in
SQL: neither it nor its negation chooses the run.
"""

import operator
import re
import reprlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from labml_bn.cli.errors import UsageError
from labml_bn.records.columns import Column, is_missing
from labml_bn.records.record import Record

#: The longest expression, in characters, and how deeply it can be nested.
LONGEST = 10_000
DEPTH = 50

#: Whether a run is chosen; None if that depends on a value that it lacks.
Test = Callable[[Record], bool | None]

_COMPARISONS: dict[str, Callable[[Any, Any], bool]] = {
    **{"=": operator.eq, "==": operator.eq, "!=": operator.ne},
    **{"<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge},
}

_TOKEN = re.compile(
    r"""(?P<sign> [()] | [=!<>]= | [=<>])
    | (?P<quoted> "[^"]*" | '[^']*')
    | (?P<word> (?: \[[^\]]*\] | [^\s()=!<>"'\[\]] )+)""",
    re.VERBOSE,
)

#: What a value of each type is called.
_NOUNS = {int: "a number", float: "a number", bool: "true or false", list: "a list like [0.8,0.9]"}


@dataclass(frozen=True)
class _Token:
    kind: str | None
    text: str
    place: int


def parse(text: str, find: Callable[[str], Column]) -> Test:
    """The test that an expression means; `find` gives the column that a name means.

    Raises UsageError, in one line, if it is malformed, and as `find` does.
    """
    if len(text) > LONGEST:
        raise UsageError(f"the expression has {len(text):,} characters, more than {LONGEST:,}")
    return _Parser(text, find).parse()


class _Parser:
    """A parser by recursive descent: one method for each level of binding."""

    def __init__(self, text: str, find: Callable[[str], Column]) -> None:
        self._text = text
        self._find = find
        self._tokens = list(_tokens(text))
        self._next = 0

    def parse(self) -> Test:
        test = self._or(0)
        if self._token.kind is not None:
            hint = " (quote a value that has spaces)" if self._token.kind == "word" else ""
            raise self._expected(f"`and` or `or`{hint}")
        return test

    @property
    def _token(self) -> _Token:
        return self._tokens[self._next]

    def _or(self, depth: int) -> Test:
        tests = [self._and(depth)]
        while self._is("or"):
            tests.append(self._and(depth))
        return tests[0] if len(tests) == 1 else lambda run: _any(test(run) for test in tests)

    def _and(self, depth: int) -> Test:
        tests = [self._not(depth)]
        while self._is("and"):
            tests.append(self._not(depth))
        return tests[0] if len(tests) == 1 else lambda run: _all(test(run) for test in tests)

    def _not(self, depth: int) -> Test:
        if depth > DEPTH:
            raise UsageError(f"the expression is nested more than {DEPTH} deep")
        if self._is("not"):
            negated = self._not(depth + 1)
            return lambda run: _negation(negated(run))
        if self._is("("):
            test = self._or(depth + 1)
            if not self._is(")"):
                raise self._expected("`)`, `and` or `or`")
            return test
        return self._comparison()

    def _comparison(self) -> Test:
        if self._token.kind != "word":
            raise self._expected("a column, such as accuracy.test")
        column = self._find(self._take().text)
        if self._token.text not in _COMPARISONS or self._token.kind != "sign":
            raise self._expected(f"an operator ({' '.join(_COMPARISONS)})")
        sign = self._take().text
        if self._token.kind not in {"word", "quoted"}:
            raise self._expected("a value")
        return _comparison(column, sign, self._take().text)

    def _is(self, text: str) -> bool:
        """Whether this is the next token, which then is taken."""
        found = self._token.kind in {"word", "sign"} and self._token.text.lower() == text
        self._next += found
        return found

    def _take(self) -> _Token:
        token = self._token
        self._next += 1
        return token

    def _expected(self, what: str) -> UsageError:
        before = self._text[: self._token.place].strip()
        place = f"after {reprlib.repr(before[-28:])}" if before else "at the start"
        found = "the end" if self._token.kind is None else reprlib.repr(self._token.text)
        return UsageError(f"the expression needs {what} {place}, got {found}")


def _tokens(text: str) -> Iterator[_Token]:
    """The tokens of an expression, then one without a kind, which is the end."""
    place = 0
    while rest := text[place:].lstrip():
        place = len(text) - len(rest)
        found = _TOKEN.match(text, place)
        if found is None:
            what = "is not closed" if rest[0] in "\"'[" else "has no meaning here (quote a value that contains it)"
            raise UsageError(f"the expression has a {rest[0]!r} that {what}: {reprlib.repr(rest)}")
        kind = found.lastgroup
        yield _Token(kind, found[0][1:-1] if kind == "quoted" else found[0], place)
        place = found.end()
    yield _Token(None, "", len(text))


def _comparison(column: Column, sign: str, word: str) -> Test:
    """The test that compares a column with a value. Raises UsageError if the column's type does not allow it."""
    compare = _COMPARISONS[sign]
    if sign not in {"=", "==", "!="} and column.type not in {int, float, datetime}:
        raise UsageError(f"{column.name} has no order: compare it by = or !=, not by {sign}")
    wanted = _typed(column, word)
    if column.type is set:
        return lambda run: (wanted in column.value(run)) != (sign == "!=")
    if column.type is not float:
        return lambda run: compare(column.value(run), wanted)

    def test(run: Record) -> bool | None:
        value = column.value(run)
        return None if is_missing(value) else compare(value, wanted)

    return test


def _typed(column: Column, word: str) -> Any:
    """The value that a word means in a column. Raises UsageError if it means none."""
    if column.options:
        for option in column.options:
            if option.lower() == word.lower():
                return option
        raise UsageError(f"{column.name} is one of {', '.join(column.options)}, not {reprlib.repr(word)}")
    if column.type in {str, set}:
        return word
    if column.type is datetime:
        try:
            return datetime.fromisoformat(word).astimezone()  # of this time zone if it names none
        except (ValueError, OverflowError, OSError):
            raise UsageError(
                f"{column.name} is a time like 2026-01-31 or '2026-01-31 12:00', not {reprlib.repr(word)}"
            ) from None
    value = _number(word) if column.type in {int, float} else _truth(word) if column.type is bool else _list(word)
    if value is None:
        raise UsageError(f"{column.name} is {_NOUNS[column.type]}, not {reprlib.repr(word)}")
    return value


def _number(word: str) -> float | None:
    try:
        value = float(word)
    except ValueError:
        return None
    return None if is_missing(value) else value


def _truth(word: str) -> bool | None:
    return {"true": True, "false": False}.get(word.lower())


def _list(word: str) -> list[float] | None:
    if not (word.startswith("[") and word.endswith("]")):
        return None
    numbers = [_number(part) for part in word[1:-1].split(",")]
    return None if None in numbers else numbers  # type: ignore[return-value]


def _any(values: Iterator[bool | None]) -> bool | None:
    found = list(values)
    return True if True in found else None if None in found else False


def _all(values: Iterator[bool | None]) -> bool | None:
    found = list(values)
    return False if False in found else None if None in found else True


def _negation(value: bool | None) -> bool | None:
    return None if value is None else not value
