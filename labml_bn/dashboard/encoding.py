"""The values that labml's app stores as bytes, and back: JSON, and the numbers of arrays as they are in memory.

Bytes from anywhere can be decoded: they give one of the types below, or a DecodingError. Pickles would run code.

An encoded value is JSON on one line, then the content of its arrays and bytes, in the order in which they are in the
JSON. What JSON lacks is an object with one key there:

    {"$set": [...]}     a set
    {"$key": "..."}     the key of a model in labml's database
    {"$array": n}       the next n numbers, float64 and little-endian
    {"$bytes": n}       the next n bytes
    {"$dict": {...}}    a dict that has a key that begins with $
"""

import json
from typing import Any

import numpy as np
from labml_db import Key

_NUMBER = np.dtype("<f8")


class DecodingError(ValueError):
    """The bytes are not an encoded value."""


def encode(value: Any) -> bytes:
    """The value as bytes. A tuple becomes a list. Raises TypeError for a type that labml's app does not store."""
    content: list[bytes] = []
    text = json.dumps(_to_json(value, content), separators=(",", ":"))
    return b"".join([text.encode(), b"\n", *content])


def decode(data: bytes) -> Any:
    """The value that was encoded. Raises DecodingError for any other bytes."""
    text, _, content = data.partition(b"\n")
    reader = _Reader(content)
    try:
        value = _from_json(json.loads(text), reader)
    except DecodingError:
        raise
    except (ValueError, TypeError, RecursionError) as error:
        raise DecodingError(f"damaged: {error}") from error
    if reader.rest:
        raise DecodingError("damaged: there are bytes that belong to no value")
    return value


def _to_json(value: Any, content: list[bytes]) -> Any:
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, list | tuple):
        return [_to_json(one, content) for one in value]
    if isinstance(value, dict):
        if not all(isinstance(key, str) for key in value):
            raise TypeError("the keys of a dict must be strings")
        converted = {key: _to_json(one, content) for key, one in value.items()}
        return {"$dict": converted} if any(key.startswith("$") for key in value) else converted
    if isinstance(value, set):
        return {"$set": [_to_json(one, content) for one in value]}
    if isinstance(value, Key):
        return {"$key": str(value)}
    if isinstance(value, bytes):
        content.append(value)
        return {"$bytes": len(value)}
    if isinstance(value, np.ndarray) and value.dtype == np.float64 and value.ndim == 1:
        content.append(value.astype(_NUMBER).tobytes())
        return {"$array": len(value)}
    raise TypeError(f"labml's app stores no {type(value).__name__}")


class _Reader:
    """The content of arrays and bytes, read from its beginning to its end."""

    def __init__(self, content: bytes) -> None:
        self.rest = memoryview(content)

    def take(self, count: Any, size: int) -> bytes:
        if type(count) is not int or not 0 <= count <= len(self.rest) // size:
            raise DecodingError("damaged: a length is wrong")
        taken, self.rest = self.rest[: count * size], self.rest[count * size :]
        return bytes(taken)


def _from_json(value: Any, reader: _Reader) -> Any:
    if isinstance(value, list):
        return [_from_json(one, reader) for one in value]
    if not isinstance(value, dict):
        return value
    if not any(key.startswith("$") for key in value):
        return {key: _from_json(one, reader) for key, one in value.items()}
    if len(value) != 1:
        raise DecodingError("damaged: an object with several types")
    ((tag, inner),) = value.items()
    if tag == "$set" and isinstance(inner, list):
        return {_from_json(one, reader) for one in inner}
    if tag == "$key" and isinstance(inner, str):
        return Key(inner)
    if tag == "$array":
        return np.frombuffer(reader.take(inner, _NUMBER.itemsize), _NUMBER).astype(np.float64)
    if tag == "$bytes":
        return reader.take(inner, 1)
    if tag == "$dict" and isinstance(inner, dict):
        return {key: _from_json(one, reader) for key, one in inner.items()}
    raise DecodingError(f"damaged: {tag} is not a type")
