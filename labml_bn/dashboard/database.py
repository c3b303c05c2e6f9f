"""The database of labml's app: an SQLite file beside the runs, or a MongoDB; and its first import of the runs."""

import contextlib
import os
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path

from labml_bn.cli.errors import UserError, os_errors_as
from labml_bn.dashboard.address import HOST
from labml_bn.dashboard.store import ERRORS, HINT, Store, Transaction

#: The SQLite file beside the runs.
DATABASE = "dashboard.sqlite"


def open_with_runs(logs: Path, *, restore: bool) -> tuple[Transaction, int]:
    """Open the database for the runs in `logs` and import them, as `import_runs` does.

    Returns the function that begins a transaction, and how many runs were new or had changed. Raises UserError if the
    database or the folder cannot be read.
    """
    path = logs / DATABASE
    try:
        transaction = open_database(path)
        from labml_bn.dashboard.importing import import_runs  # it imports labml's app, which must be set up first

        with os_errors_as(f"cannot import runs from {logs}"):
            return transaction, import_runs(logs, transaction, restore=restore)
    except ERRORS as error:
        raise UserError(f"cannot read the dashboard's data in {path}: {error}. {HINT}") from error


def open_database(path: Path) -> Transaction:
    """Give labml's app its database: the MongoDB that MONGO_HOST names, if it is set, or the SQLite file at `path`.

    Returns the function that begins a transaction. Raises UserError if the database cannot be opened.
    """
    # labml's app cannot be imported without these; only its own server, which is not used here, needs their values.
    os.environ["LABML_APP_SERVER_IP"] = HOST
    os.environ["LABML_APP_SERVER_PORT"] = "0"
    from labml_app import db, settings
    from labml_app.db import project

    from labml_bn.dashboard.importing import ImportedIndex, ResultIndex, local_user

    db.indexes.extend([ImportedIndex, ResultIndex])
    transaction: Transaction
    if "MONGO_HOST" in os.environ:
        transaction = _exclusively(threading.RLock())
        try:
            db.init_mongo_db()
        except Exception as error:
            raise UserError(f"MONGO_HOST={os.environ['MONGO_HOST']}: {error}") from error
    else:
        store = Store(path)
        store.attach(db.models, db.indexes)
        transaction = store.transaction
        with transaction():
            project.create_project(settings.FLOAT_PROJECT_TOKEN, "float project")
            project.create_project(settings.SAMPLES_PROJECT_TOKEN, "samples project")
    with transaction():
        # A request that names no project gets the user's.
        project.ProjectIndex.set("", local_user().projects[0])
    return transaction


def _exclusively(lock: AbstractContextManager[object]) -> Transaction:
    """The substitute for transactions with a MongoDB: at least this process executes only one block at a time."""

    @contextlib.contextmanager
    def transaction() -> Iterator[None]:
        with lock:
            yield

    return transaction
