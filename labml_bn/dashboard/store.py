"""An SQLite file as the database of labml's app.

labml's app accesses its database through one driver for each of its models and indexes. The two drivers here keep all
models and indexes in one file. Each request is a transaction: if the server is killed, the file has the state before or
after a request. The app's values are pickled, because they contain sets, arrays and keys; unpickling is restricted to
the types in a list, so that a stored value cannot run code.
"""

import contextlib
import io
import pickle
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from labml_db import Index, Model
from labml_db.driver import DbDriver
from labml_db.index_driver import IndexDbDriver
from pymongo.errors import PyMongoError

from labml_bn.cli.errors import UserError

_SCHEMA = """
CREATE TABLE IF NOT EXISTS models (key TEXT PRIMARY KEY, model TEXT NOT NULL, data BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS indexes (name TEXT, key TEXT, value TEXT NOT NULL, PRIMARY KEY (name, key));
"""

#: Seconds to wait for the transaction of another thread, or of another dashboard for the same runs.
_TIMEOUT = 30.0

#: The errors of a database, SQLite or MongoDB, that cannot be read or written.
ERRORS = (sqlite3.Error, pickle.UnpicklingError, PyMongoError)

#: The function that begins a transaction, which lasts for a `with` block.
Transaction = Callable[[], AbstractContextManager[None]]

HINT = "If it is damaged, delete it: it is rebuilt from the runs"

#: The types in stored values, besides numbers, strings, lists and dicts.
_ALLOWED = {
    ("builtins", "set"),
    ("labml_db.model", "Key"),
    ("numpy", "dtype"),
    ("numpy", "ndarray"),
    ("numpy._core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "scalar"),
    ("numpy.core.multiarray", "_reconstruct"),
    ("numpy.core.multiarray", "scalar"),
}


class Store:
    """An SQLite file, opened once by each thread. Raises UserError if it cannot be opened."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._local = threading.local()
        try:
            self.connection.executescript(_SCHEMA)
        except sqlite3.Error as error:
            raise UserError(f"cannot store the dashboard's data in {path}: {error}. {HINT}") from error

    @property
    def connection(self) -> sqlite3.Connection:
        """This thread's connection."""
        if not hasattr(self._local, "connection"):
            connection = sqlite3.connect(self._path, timeout=_TIMEOUT, isolation_level=None)
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = NORMAL")
            self._local.connection = connection
        made: sqlite3.Connection = self._local.connection
        return made

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        """Commit the block's changes, or roll them back if it raises. Other threads and processes wait for its end."""
        connection = self.connection
        connection.execute("BEGIN IMMEDIATE")
        try:
            yield
            connection.execute("COMMIT")
        except BaseException:
            connection.execute("ROLLBACK")
            raise

    def attach(self, models: list[type[Model[Any]]], indexes: list[type[Index[Any]]]) -> None:
        """Make this the database of labml's app for these models and indexes."""
        Model.set_db_drivers([_ModelDriver(model, self) for model in models])
        Index.set_db_drivers([_IndexDriver(index, self) for index in indexes])


class _ModelDriver(DbDriver):  # type: ignore[misc]
    """The database of one of the app's models."""

    def __init__(self, model: type[Model[Any]], store: Store) -> None:
        super().__init__(None, model)
        self._store = store

    def load_dict(self, key: str) -> dict[str, Any] | None:
        row = self._store.connection.execute("SELECT data FROM models WHERE key = ?", (str(key),)).fetchone()
        return None if row is None else loads(row[0])

    def mload_dict(self, key: list[str]) -> list[dict[str, Any] | None]:
        return [self.load_dict(one) for one in key]

    def save_dict(self, key: str, data: dict[str, Any]) -> None:
        row = (str(key), self.model_name, pickle.dumps(data, protocol=4))
        self._store.connection.execute("INSERT OR REPLACE INTO models VALUES (?, ?, ?)", row)

    def msave_dict(self, key: list[str], data: list[dict[str, Any]]) -> None:
        for one, value in zip(key, data, strict=True):
            self.save_dict(one, value)

    def delete(self, key: str) -> None:
        self._store.connection.execute("DELETE FROM models WHERE key = ?", (str(key),))

    def get_all(self) -> list[str]:
        rows = self._store.connection.execute("SELECT key FROM models WHERE model = ?", (self.model_name,))
        return [key for (key,) in rows]


class _IndexDriver(IndexDbDriver):  # type: ignore[misc]
    """The database of one of the app's indexes, which maps names to the keys of models."""

    def __init__(self, index: type[Index[Any]], store: Store) -> None:
        super().__init__(index)
        self._store = store

    def get(self, index_key: str) -> str | None:
        query = "SELECT value FROM indexes WHERE name = ? AND key = ?"
        row = self._store.connection.execute(query, (self.index_name, index_key)).fetchone()
        return None if row is None else row[0]

    def mget(self, index_key: list[str]) -> list[str | None]:
        return [self.get(one) for one in index_key]

    def set(self, index_key: str, model_key: str) -> None:
        row = (self.index_name, index_key, model_key)
        self._store.connection.execute("INSERT OR REPLACE INTO indexes VALUES (?, ?, ?)", row)

    def delete(self, index_key: str) -> None:
        self._store.connection.execute("DELETE FROM indexes WHERE name = ? AND key = ?", (self.index_name, index_key))

    def get_all(self) -> list[str]:
        rows = self._store.connection.execute("SELECT value FROM indexes WHERE name = ?", (self.index_name,))
        return [value for (value,) in rows]


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ALLOWED:
            raise pickle.UnpicklingError(f"a stored value contains {module}.{name}, which is not allowed")
        return super().find_class(module, name)


def loads(data: bytes) -> Any:
    """A stored value. Raises pickle.UnpicklingError if it is damaged, or contains a type that is not in the list."""
    try:
        return _Unpickler(io.BytesIO(data)).load()
    except pickle.UnpicklingError:
        raise
    except Exception as error:  # damaged bytes can raise anything
        raise pickle.UnpicklingError(f"a stored value is damaged: {error!r}") from error
