"""The SQLite file of labml's app: values are stored unchanged, transactions are atomic, unpickling is restricted."""

import os
import pickle
import signal
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from labml_db import Index, Key, Model

from labml_bn.cli.errors import UserError
from labml_bn.dashboard.store import Store, loads


class Thing(Model["Thing"]):  # type: ignore[misc]
    name: str
    values: Any

    @classmethod
    def defaults(cls) -> dict[str, Any]:
        return {"name": "", "values": None}


class ThingIndex(Index["Thing"]):  # type: ignore[misc]
    pass


@pytest.fixture
def store(tmp_path: Path) -> Store:
    made = Store(tmp_path / "store.sqlite")
    made.attach([Thing], [ThingIndex])
    return made


@pytest.mark.parametrize(
    "value",
    [{"a", "b"}, {"k": [1, 2.5, None, True]}, Key("Thing:1"), np.arange(5.0), np.float64(2), "ü", b"\0"],
    ids=["set", "dict", "key", "array", "number", "text", "bytes"],
)
def test_values_are_stored_unchanged(store: Store, value: Any) -> None:
    thing = Thing(name="one", values=[value])
    thing.save()
    loaded = thing.key.load()
    assert loaded.name == "one"
    np.testing.assert_array_equal(loaded.values[0], value)
    assert type(loaded.values[0]) is type(value)


def test_models(store: Store) -> None:
    one, two = Thing(name="one"), Thing(name="two")
    Thing.msave([one, two])
    assert [thing.name for thing in Thing.mload([str(two.key), str(one.key)])] == ["two", "one"]
    assert {str(key) for key in Thing.get_all()} == {str(one.key), str(two.key)}
    one.delete()
    assert one.key.load() is None
    assert Thing.mload([str(one.key), str(two.key)])[0] is None


def test_indexes(store: Store) -> None:
    thing = Thing(name="one")
    thing.save()
    ThingIndex.set("first", thing.key)
    ThingIndex.set("first", thing.key)
    assert ThingIndex.get("first").load().name == "one"
    assert [key and str(key) for key in ThingIndex.mget(["first", "second"])] == [str(thing.key), None]
    assert ThingIndex.get_all() == [str(thing.key)]
    ThingIndex.delete("first")
    assert ThingIndex.get("first") is None


def test_transactions_are_atomic(store: Store) -> None:
    def two_things() -> None:
        with store.transaction():
            Thing(name="one").save()
            raise RuntimeError

    with pytest.raises(RuntimeError):
        two_things()
    assert Thing.get_all() == []
    with store.transaction():
        Thing(name="one").save()
    assert len(Thing.get_all()) == 1


def test_transactions_of_two_threads_do_not_lose_updates(store: Store) -> None:
    thing = Thing(name="", values=0)
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


KILLED = """
import sys
from pathlib import Path
from labml_bn.dashboard.store import Store
from tests.dashboard.test_store import Thing, ThingIndex
store = Store(Path(sys.argv[1]))
store.attach([Thing], [ThingIndex])
print("ready", flush=True)
for number in range(10**9):
    with store.transaction():
        thing = Thing(name=str(number))
        thing.save()
        ThingIndex.set("latest", thing.key)
"""


def test_transactions_are_atomic_when_the_process_is_killed(store: Store, tmp_path: Path) -> None:
    """A transaction's writes are both in the file or neither, even if the process is killed."""
    for pause in (0.01, 0.03, 0.1):
        command = [sys.executable, "-c", KILLED, str(tmp_path / "store.sqlite")]
        with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=Path(__file__).parents[2]) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == b"ready\n"
            threading.Event().wait(pause)
            os.kill(process.pid, signal.SIGKILL)
        assert sqlite3.connect(tmp_path / "store.sqlite").execute("PRAGMA integrity_check").fetchone() == ("ok",)
        names = {int(key.load().name) for key in Thing.get_all()}
        assert int(ThingIndex.get("latest").load().name) in names


class Evil:
    def __reduce__(self) -> Any:
        return os.system, ("touch /tmp/evil",)


@pytest.mark.parametrize("value", [Evil(), [Evil()], np.array([Evil()], dtype=object), print, threading.Thread])
def test_other_types_are_not_unpickled(value: Any) -> None:
    with pytest.raises(pickle.UnpicklingError, match="which is not allowed"):
        loads(pickle.dumps(value, protocol=4))


def test_not_a_database(tmp_path: Path) -> None:
    (tmp_path / "store.sqlite").write_bytes(b"something else" * 100)
    with pytest.raises(UserError, match="cannot store the dashboard's data in"):
        Store(tmp_path / "store.sqlite")
    with pytest.raises(UserError, match="cannot store the dashboard's data in"):
        Store(tmp_path / "nowhere" / "store.sqlite")
