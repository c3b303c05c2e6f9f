"""Values as bytes and back: unchanged, and whatever the bytes are, without harm."""

import contextlib
import math
import pickle
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from labml_db import Key

from labml_bn.dashboard.encoding import DecodingError, decode, encode

keys = st.text(st.characters(), max_size=5).map(Key)
numbers = arrays(np.float64, st.integers(0, 5))
simple = (
    st.none()
    | st.booleans()
    | st.integers(-(10**30), 10**30)
    | st.floats()
    | st.text(st.characters(exclude_categories=()))
    | st.binary(max_size=9)
)
values = st.recursive(
    simple | keys | numbers | st.sets(st.text()),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text() | st.just("$set"), inner, max_size=4),
    max_leaves=20,
)


def same(one: Any, other: Any) -> bool:
    if type(one) is not type(other):
        return False
    if isinstance(one, np.ndarray):
        return np.array_equal(one, other, equal_nan=True)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    return bool(one == other) or (isinstance(one, float) and math.isnan(one) and math.isnan(other))


@given(values)
def test_a_value_is_unchanged(value: Any) -> None:
    assert same(decode(encode(value)), value)


def test_an_array_can_be_written_to() -> None:
    """labml's app merges the points of a series in place."""
    array = decode(encode(np.arange(3.0)))
    array[0] = 5
    assert array.tolist() == [5, 1, 2]


def test_what_becomes_another_type() -> None:
    assert decode(encode((1, "a"))) == [1, "a"]
    assert type(decode(encode(np.float64(2)))) is float


@pytest.mark.parametrize(
    "value",
    [np.array([object()]), np.arange(3), np.zeros((2, 2)), print, {1: 2}, 1j],
    ids=lambda value: repr(type(value)),
)
def test_other_types_are_not_stored(value: Any) -> None:
    with pytest.raises(TypeError):
        encode([value])


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"nonsense",
        b'{"$array":2}\n12345678',
        b'{"$array":-1}\n12345678',
        b'{"$array":true}\n12345678',
        b'{"$array":99999999999999999999}\n12345678',
        b'{"$array":1.0}\n12345678',
        b'{"$array":1}\n123456789',
        b'{"$bytes":"1"}\n1',
        b'{"$array":1,"$set":[]}\n12345678',
        b'{"$object":1}\n',
        b'{"$set":[[]]}\n',
        b'{"$key":5}\n',
        b"[" * 100_000,
        b"9" * 10_000,
        b"\xff",
        pickle.dumps({"name": np.arange(3)}),
        pickle.dumps(np.frombuffer((1 << 40).to_bytes(8, "little"), np.int64)),
    ],
)
def test_damaged_bytes(data: bytes) -> None:
    with pytest.raises(DecodingError):
        decode(data)


@given(values, st.data())
def test_changed_bytes_give_a_value_or_one_error(value: Any, data: st.DataObject) -> None:
    encoded = bytearray(encode(value))
    place = data.draw(st.integers(0, len(encoded) - 1))
    encoded[place] = data.draw(st.integers(0, 255))
    end = data.draw(st.integers(0, len(encoded)))
    for changed in (bytes(encoded), bytes(encoded[:end])):
        with contextlib.suppress(DecodingError):
            decode(changed)
