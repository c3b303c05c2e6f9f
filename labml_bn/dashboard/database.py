"""The database of labml's app: in memory, with a copy in a file, or a MongoDB; and its first import of the runs."""

import contextlib
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pymongo.errors import PyMongoError

from labml_bn.cli.errors import UserError, os_errors_as
from labml_bn.dashboard.address import HOST
from labml_bn.dashboard.saved_copy import SavedCopy
from labml_bn.dashboard.store import Store, Transaction

if TYPE_CHECKING:
    from labml_bn.dashboard.importing import Follower


def _nothing() -> None:
    pass


@dataclass(frozen=True)
class Database:
    """The open database: `transaction` begins a transaction, `save` keeps what has changed for the next dashboard."""

    transaction: Transaction
    save: Callable[[], None] = _nothing


def open_with_runs(logs: Path, *, restore: bool) -> tuple[Transaction, "Follower", int]:
    """Open the database for the runs in `logs` and import them, as `Importer` does.

    Returns the function that begins a transaction, the thread that will import what changes, and how many runs were new
    or had changed. Raises UserError if the database or the folder cannot be read, or if deleted runs are to be restored
    while another dashboard for these runs is running.
    """
    database = open_database(logs, alone=restore)
    from labml_bn.dashboard.importing import Follower, Importer  # labml's app must be set up first

    importer = Importer(logs, database.transaction)
    try:
        with os_errors_as(f"cannot import runs from {logs}"):
            changed = importer.update(restore=restore)
    except PyMongoError as error:
        raise UserError(f"cannot read the dashboard's data: {error}") from error
    database.save()
    return database.transaction, Follower(importer, database.save), changed


def open_database(logs: Path, *, alone: bool = False) -> Database:
    """Give labml's app its database: the MongoDB that MONGO_HOST names, if it is set, or memory and a copy in a file.

    Raises UserError if the MongoDB does not respond, or if `alone` and another dashboard for the runs is running.
    """
    # labml's app cannot be imported without these; only its own server, which is not used here, needs their values.
    os.environ["LABML_APP_SERVER_IP"] = HOST
    os.environ["LABML_APP_SERVER_PORT"] = "0"
    from labml_app import db, settings
    from labml_app.db import project

    from labml_bn.dashboard.importing import ImportedIndex, ResultIndex, local_user

    indexes = [*db.indexes, ImportedIndex, ResultIndex]
    if host := os.environ.get("MONGO_HOST"):
        from labml_bn.dashboard import mongodb

        database = Database(_exclusively(threading.Lock()))
        try:
            mongodb.attach(host, db.models, indexes)
        except (PyMongoError, ValueError) as error:  # the latter for an impossible name
            raise UserError(f"MONGO_HOST={host}: {error}") from error
    else:
        store = Store(db.models, indexes)
        copy = SavedCopy(store, logs, alone=alone)
        copy.load()
        database = Database(store.transaction, copy.save)
    with database.transaction():
        project.create_project(settings.FLOAT_PROJECT_TOKEN, "float project")
        project.create_project(settings.SAMPLES_PROJECT_TOKEN, "samples project")
        # A request that names no project gets the user's.
        project.ProjectIndex.set("", local_user().projects[0])
    return database


def _exclusively(lock: AbstractContextManager[object]) -> Transaction:
    """The substitute for transactions with a MongoDB: at least this process executes only one block at a time."""

    @contextlib.contextmanager
    def transaction() -> Iterator[None]:
        with lock:
            yield

    return transaction
