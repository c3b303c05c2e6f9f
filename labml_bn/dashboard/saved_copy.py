"""A copy of the dashboard's database in a file, which the next dashboard for the same runs starts with.

The copy saves the time to import all runs again, and keeps what is nowhere else: which runs are archived or deleted,
and which curves are shown. It is in the user's own folder for such files, because a folder of runs can be read-only, or
be sent to someone else. Without it the dashboard works as well, so nothing that is wrong with it is an error: one line
says what is not kept.
"""

import contextlib
import hashlib
import os
from pathlib import Path

import platformdirs
from filelock import FileLock, Timeout

from labml_bn.cli.errors import UserError, reason
from labml_bn.cli.files import replacing
from labml_bn.cli.output import report
from labml_bn.cli.received import read_bytes
from labml_bn.dashboard.encoding import DecodingError, decode, encode
from labml_bn.dashboard.store import Store

#: The beginning of the file. The number changes with what the tables contain.
_FORMAT = b"labml_bn dashboard 3\n"

#: A larger copy is not read, in bytes.
_LIMIT = 1 << 30


class SavedCopy:
    """The copy of `store` for the runs in `logs`, an absolute path. Only one process at a time has it.

    Raises UserError if another one has, and `alone`; otherwise this one does without.
    """

    def __init__(self, store: Store, logs: Path, *, alone: bool = False) -> None:
        self._store = store
        self._version = store.version
        self._path: Path | None = None
        path = path_for(logs)
        try:
            _make_folder(path.parent)
            self._lock = FileLock(path.with_suffix(".lock"), timeout=0, mode=0o600)
            self._lock.acquire()
            self._path = path
        except Timeout:
            if alone:
                raise UserError(f"another dashboard shows the runs in {logs}: end it first") from None
            _warn("another dashboard shows these runs: archived and deleted runs and shown curves are kept only there")
        except (OSError, NotImplementedError, RuntimeError) as error:
            _warn(_not_kept(path, error))

    def load(self) -> None:
        """Take the copy over into the store. If there is none, or it is damaged, the store stays as it is."""
        if self._path is None:
            return
        with contextlib.suppress(FileNotFoundError):
            try:
                self._store.restore(_parsed(read_bytes(self._path, _LIMIT)))
            except (DecodingError, UserError) as error:
                _warn(f"the dashboard's data are rebuilt from the runs: {self._path} is not usable ({error})")

    def save(self) -> None:
        """Write the copy, if the store has changed since. After an error it is not tried again."""
        if self._path is None or self._store.version == self._version:
            return
        self._version, tables = self._store.copy()
        content = encode(tables)
        try:
            with replacing(self._path, mode=0o600) as part:
                part.write_bytes(_FORMAT + hashlib.sha256(content).digest() + content)
        except OSError as error:
            _warn(_not_kept(self._path, error))
            self._path = None


def path_for(logs: Path) -> Path:
    """The file of the copy for the runs in a folder."""
    name = hashlib.sha256(os.fsencode(logs)).hexdigest()[:32]
    return platformdirs.user_state_path("labml_bn", appauthor=False) / "dashboard" / f"{name}.data"


def _make_folder(folder: Path) -> None:
    """Make a folder that only this user can read. Raises OSError if that is impossible."""
    if not folder.is_absolute():
        raise FileNotFoundError("there is no home folder")
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if os.name != "nt":
        if folder.stat().st_uid != os.geteuid():
            raise PermissionError("the folder belongs to another user")
        folder.chmod(0o700)


def _parsed(data: bytes) -> object:
    """The tables in a copy. Raises DecodingError if it is damaged, or of another version."""
    if not data.startswith(_FORMAT):
        raise DecodingError("it is of another version, or damaged")
    checksum, content = data[len(_FORMAT) :][:32], data[len(_FORMAT) + 32 :]
    if hashlib.sha256(content).digest() != checksum:
        raise DecodingError("its checksum is wrong")
    return decode(content)


def _not_kept(path: Path, error: Exception) -> str:
    why = reason(error) if isinstance(error, OSError) else str(error)
    return f"archived and deleted runs and shown curves are not kept: cannot write {path}: {why}"


def _warn(message: str) -> None:
    report(" ".join(["warning:", *message.split()]))
