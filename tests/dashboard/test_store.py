"""The database of labml's app in memory: values are stored unchanged, and transactions are atomic."""

import threading
from typing import Any

import numpy as np
import pytest
from labml_db import Index, Key, Model

from labml_bn.dashboard.encoding import DecodingError, decode, encode
from labml_bn.dashboard.store import Store


class Thing(Model["Thing"]):  # type: ignore[misc]
    name: str
    values: Any

    @classmethod
    def defaults(cls) -> dict[str, Any]:
        return {"name": "", "values": None}


class ThingIndex(Index["Thing"]):  # type: ignore[misc]
    pass


@pytest.fixture
def store() -> Store:
    return Store([Thing], [ThingIndex])


@pytest.mark.parametrize(
    "value",
    [{"a", "b"}, {"k": [1, 2.5, None, True]}, Key("Thing:1"), np.arange(5.0), "ü", b"\0"],
    ids=["set", "dict", "key", "array", "text", "bytes"],
)
def test_values_are_stored_unchanged(store: Store, value: Any) -> None:
    thing = Thing(name="one", values=[value])
    with store.transaction():
        thing.save()
    loaded = thing.key.load()
    assert loaded.name == "one"
    np.testing.assert_array_equal(loaded.values[0], value)
    assert type(loaded.values[0]) is type(value)


def test_models(store: Store) -> None:
    one, two = Thing(name="one"), Thing(name="two")
    with store.transaction():
        Thing.msave([one, two])
    assert [thing.name for thing in Thing.mload([str(two.key), str(one.key)])] == ["two", "one"]
    assert {str(key) for key in Thing.get_all()} == {str(one.key), str(two.key)}
    with store.transaction():
        one.delete()
    assert one.key.load() is None
    assert Thing.mload([str(one.key), str(two.key)])[0] is None


def test_indexes(store: Store) -> None:
    thing = Thing(name="one")
    with store.transaction():
        thing.save()
        ThingIndex.set("first", thing.key)
        ThingIndex.set("first", thing.key)
    assert ThingIndex.get("first").load().name == "one"
    assert [key and str(key) for key in ThingIndex.mget(["first", "second"])] == [str(thing.key), None]
    assert ThingIndex.get_all() == [str(thing.key)]
    with store.transaction():
        ThingIndex.delete("first")
    assert ThingIndex.get("first") is None


def test_what_is_not_saved_changes_nothing(store: Store) -> None:
    thing = Thing(name="one", values=[1])
    with store.transaction():
        thing.save()
    thing.key.load().values.append(2)
    assert thing.key.load().values == [1]


def test_transactions_are_atomic(store: Store) -> None:
    thing = Thing(name="one")
    with store.transaction():
        thing.save()
        ThingIndex.set("first", thing.key)
    before = store.copy()

    def changes() -> None:
        with store.transaction():
            Thing(name="two").save()
            thing.name = "changed"
            thing.save()
            thing.name = "twice"
            thing.save()
            thing.delete()
            ThingIndex.delete("first")
            ThingIndex.set("second", thing.key)
            raise RuntimeError

    with pytest.raises(RuntimeError):
        changes()
    assert store.copy() == before
    assert thing.key.load().name == "one"


def test_a_change_needs_a_transaction(store: Store) -> None:
    with pytest.raises(RuntimeError, match="transaction"):
        Thing(name="one").save()


def test_the_version_changes_with_the_content(store: Store) -> None:
    with store.transaction():
        pass
    assert store.version == 0
    with store.transaction():
        Thing(name="one").save()
    assert store.version == 1


def test_transactions_of_two_threads_do_not_lose_updates(store: Store) -> None:
    thing = Thing(name="", values=0)
    with store.transaction():
        thing.save()

    def count() -> None:
        for _ in range(100):
            with store.transaction():
                loaded = thing.key.load()
                loaded.values += 1
                loaded.save()

    threads = [threading.Thread(target=count) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert thing.key.load().values == 300


def test_a_copy_is_restored(store: Store) -> None:
    thing = Thing(name="one", values=[np.arange(3.0)])
    with store.transaction():
        thing.save()
        ThingIndex.set("first", thing.key)
    _, tables = store.copy()
    other = Store([Thing], [ThingIndex])
    other.restore(decode(encode(tables)))
    assert other.copy()[1] == tables
    assert ThingIndex.get("first").load().values[0].tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    "tables",
    [
        None,
        {},
        {"Thing": {}, "index ThingIndex": {}, "Other": {}},
        {"Thing": [], "index ThingIndex": {}},
        {"Thing": {"Thing:1": "text"}, "index ThingIndex": {}},
        {"Thing": {"Thing:1": b"damaged"}, "index ThingIndex": {}},
        {"Thing": {"Thing:1": encode([])}, "index ThingIndex": {}},
        {"Thing": {"Thing:1": encode({})}, "index ThingIndex": {"first": 5}},
    ],
)
def test_what_is_not_a_copy_changes_nothing(store: Store, tables: Any) -> None:
    with pytest.raises(DecodingError):
        store.restore(tables)
    assert store.copy() == (0, {"Thing": {}, "index ThingIndex": {}})
