"""The writer of `log.jsonl`, a run's metrics, in place of labml's own: one JSON object per line."""

import contextlib
import errno
import json
import os
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from labml.internal.tracker.indicators import Indicator
from labml.internal.tracker.writers import Writer
from labml.internal.util.values import to_numpy

from labml_bn.cli.files import replacing
from labml_bn.cli.output import report
from labml_bn.cli.received import open_to_append
from labml_bn.records.folder import LOG


@dataclass(frozen=True)
class Position:
    """The end of a log: `size` in bytes, after `elapsed` seconds of training."""

    size: int = 0
    elapsed: float = 0.0


class Log(Writer):  # type: ignore[misc]
    """A writer for labml's tracker, in the format of labml's own file writer.

    labml's keeps up to a minute of metrics in memory and writes them in a thread; this one writes in `flush`.
    Besides labml's `track` and `time`, each line has `elapsed`, the seconds of training: clocks jump, and runs pause.
    The file stays open, so that it can be restored if it is deleted while the run is running.
    """

    def __init__(self) -> None:
        self.path = Path(LOG)
        self._file: BinaryIO | None = None
        self._size = 0
        self._track: dict[str, list[tuple[int, list[float]]]] = {}
        self._start = 0.0

    def open(self, path: Path, position: Position) -> None:
        """Write to this file from now on; what it has beyond `position` is discarded.

        Raises OSError or UnreadableError if it cannot be written.
        """
        self.close()
        self.path = path
        self._file = open_to_append(path)
        self._file.truncate(position.size)
        self._size = position.size
        self._track = {}
        self._start = time.monotonic() - position.elapsed

    def close(self) -> None:
        """Close the file. Metrics that it does not have are lost."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def write(self, *, global_step: int, indicators: Mapping[str, Indicator]) -> None:
        """Buffer the metrics of a step. Called by labml."""
        for indicator in indicators.values():
            if not indicator.is_empty():
                points = self._track.setdefault(indicator.mean_key, [])
                points.append((global_step, to_numpy(indicator.get_all_values()).tolist()))

    def flush(self) -> None:
        """Append the buffered metrics as one line. If that fails (OSError), nothing is written, and they are kept.

        Called by labml too, at the end of a run.
        """
        if self._file is None:
            return
        self._check()
        if not self._track:
            return
        line = json.dumps({"track": self._track, "time": time.time(), "elapsed": self.elapsed}).encode() + b"\n"
        try:
            if self._file.write(line) < len(line):  # the disk became full
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError:
            self._file.truncate(self._size)
            raise
        self._size += len(line)
        self._track = {}

    def _check(self) -> None:
        """Restore the file if it was deleted or replaced, and warn of what others did to it. May raise OSError."""
        assert self._file is not None
        opened = os.fstat(self._file.fileno())
        if opened.st_size != self._size:
            self._warn(f"changed by another process: it has {opened.st_size} bytes instead of {self._size}")
            self._size = opened.st_size
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(self.path.lstat(), opened):
                return
        with replacing(self.path) as part:
            restored = open_to_append(part)
            self._file.seek(0)
            shutil.copyfileobj(self._file, restored)
        self._file.close()
        self._file = restored
        self._warn("deleted or replaced by another process, and is restored")

    def _warn(self, what: str) -> None:
        report(f"warning: the log {self.path} was {what}")

    def position(self) -> Position:
        """The end of the file, once all of it is on the disk. Raises OSError if it cannot be written."""
        self.flush()
        if self._file is not None:
            os.fsync(self._file.fileno())
        return Position(self._size, self.elapsed)

    @property
    def elapsed(self) -> float:
        """Seconds of training, without pauses."""
        return time.monotonic() - self._start
