"""The database of labml's app, in the memory of this process: nothing can lock it, fill it or take it away.

labml's app accesses its database through one driver for each of its models and indexes. The drivers here keep each in
a table, a dict. A block of changes is a transaction: if it fails, all of them are undone. Models are kept encoded, so
that a loaded one that is changed and not saved changes nothing. `saved_copy.py` keeps a copy of the tables in a file.
"""

import contextlib
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any

from labml_db import Index, Model
from labml_db.driver import DbDriver
from labml_db.index_driver import IndexDbDriver

from labml_bn.dashboard.encoding import DecodingError, decode, encode

#: The function that begins a transaction, which lasts for a `with` block.
Transaction = Callable[[], AbstractContextManager[None]]

#: The tables by their names. Those of models contain encoded values by their keys, those of indexes keys of models.
Tables = dict[str, dict[str, Any]]

#: Before the name of an index, in the name of its table.
_INDEX = "index "


class Store:
    """The tables of these models and indexes. `version` is increased by each transaction that has changed them."""

    def __init__(self, models: list[type[Model[Any]]], indexes: list[type[Index[Any]]]) -> None:
        self.version = 0
        self._lock = threading.Lock()
        self._undo: list[tuple[dict[str, Any], str, Any]] = []
        names = [*(model.__name__ for model in models), *(f"{_INDEX}{index.__name__}" for index in indexes)]
        self._tables: Tables = {name: {} for name in names}
        Model.set_db_drivers([_ModelDriver(model, self) for model in models])
        Index.set_db_drivers([_IndexDriver(index, self) for index in indexes])

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        """Keep the block's changes, or undo them if it raises. Other threads wait for its end."""
        with self._lock:
            try:
                yield
                self.version += bool(self._undo)
            except BaseException:
                for table, key, value in reversed(self._undo):
                    _put(table, key, value)
                raise
            finally:
                self._undo.clear()

    def table(self, name: str) -> dict[str, Any]:
        """The table with this name."""
        return self._tables[name]

    def put(self, table: dict[str, Any], key: str, value: Any) -> None:
        """Set an entry of a table; None removes it. Raises RuntimeError if there is no transaction."""
        if not self._lock.locked():
            raise RuntimeError("a change needs a transaction")
        self._undo.append((table, key, table.get(key)))
        _put(table, key, value)

    def copy(self) -> tuple[int, Tables]:
        """The version and the content of all tables. The entries themselves are never changed."""
        with self._lock:
            return self.version, {name: dict(table) for name, table in self._tables.items()}

    def restore(self, tables: Any) -> None:
        """Take over the content of a copy. Raises DecodingError if it is not one, and changes nothing then."""
        if not isinstance(tables, dict) or tables.keys() != self._tables.keys():
            raise DecodingError("it has other tables")
        for name, table in tables.items():
            if not isinstance(table, dict):
                raise DecodingError(f"{name} is not a table")
            for value in table.values():
                if name.startswith(_INDEX) and not isinstance(value, str):
                    raise DecodingError(f"{name} has an entry that is not a key")
                if not name.startswith(_INDEX) and not (isinstance(value, bytes) and isinstance(decode(value), dict)):
                    raise DecodingError(f"{name} has an entry that is not a model")
        with self._lock:
            for name, table in tables.items():
                self._tables[name].update(table)


def _put(table: dict[str, Any], key: str, value: Any) -> None:
    if value is None:
        table.pop(key, None)
    else:
        table[key] = value


class _ModelDriver(DbDriver):  # type: ignore[misc]
    """The database of one of the app's models."""

    def __init__(self, model: type[Model[Any]], store: Store) -> None:
        super().__init__(None, model)
        self._store, self._table = store, store.table(self.model_name)

    def load_dict(self, key: str) -> dict[str, Any] | None:
        data = self._table.get(str(key))
        loaded: dict[str, Any] | None = None if data is None else decode(data)
        return loaded

    def mload_dict(self, key: list[str]) -> list[dict[str, Any] | None]:
        return [self.load_dict(one) for one in key]

    def save_dict(self, key: str, data: dict[str, Any]) -> None:
        self._store.put(self._table, str(key), encode(data))

    def msave_dict(self, key: list[str], data: list[dict[str, Any]]) -> None:
        for one, value in zip(key, data, strict=True):
            self.save_dict(one, value)

    def delete(self, key: str) -> None:
        self._store.put(self._table, str(key), None)

    def get_all(self) -> list[str]:
        return list(self._table)


class _IndexDriver(IndexDbDriver):  # type: ignore[misc]
    """The database of one of the app's indexes, which maps names to the keys of models."""

    def __init__(self, index: type[Index[Any]], store: Store) -> None:
        super().__init__(index)
        self._store, self._table = store, store.table(f"{_INDEX}{self.index_name}")

    def get(self, index_key: str) -> str | None:
        return self._table.get(index_key)

    def mget(self, index_key: list[str]) -> list[str | None]:
        return [self.get(one) for one in index_key]

    def set(self, index_key: str, model_key: str) -> None:
        self._store.put(self._table, index_key, model_key)

    def delete(self, index_key: str) -> None:
        self._store.put(self._table, index_key, None)

    def get_all(self) -> list[str]:
        return list(self._table.values())
