"""A MongoDB as the database of labml's app, through labml's drivers. The values are encoded, not pickled."""

from typing import Any

from labml_db import Index, Model
from labml_db.driver.mongo import MongoDbDriver
from labml_db.index_driver.mongo import MongoIndexDbDriver
from pymongo import MongoClient

from labml_bn.dashboard.encoding import decode, encode

#: The name of the database in it. Versions that pickled the values used another.
_NAME = "labml_bn"


def attach(host: str, models: list[type[Model[Any]]], indexes: list[type[Index[Any]]]) -> None:
    """Make this MongoDB the database of labml's app. Raises PyMongoError if it does not respond."""
    client: MongoClient[Any] = MongoClient(host=host)
    client.admin.command("ping")
    Model.set_db_drivers([_ModelDriver(model, client[_NAME]) for model in models])
    Index.set_db_drivers([MongoIndexDbDriver(index, client[_NAME]) for index in indexes])


class _ModelDriver(MongoDbDriver):  # type: ignore[misc]
    """The database of one of the app's models: a document for each, with the encoded value."""

    def load_dict(self, key: str) -> dict[str, Any] | None:
        return _decoded(super().load_dict(key))

    def mload_dict(self, key: list[str]) -> list[dict[str, Any] | None]:
        return [_decoded(document) for document in super().mload_dict(key)]

    def save_dict(self, key: str, data: dict[str, Any]) -> None:
        super().save_dict(key, {"data": encode(data)})

    def msave_dict(self, key: list[str], data: list[dict[str, Any]]) -> None:
        super().msave_dict(key, [{"data": encode(one)} for one in data])


def _decoded(document: dict[str, Any] | None) -> dict[str, Any] | None:
    decoded: dict[str, Any] | None = None if document is None else decode(document["data"])
    return decoded
