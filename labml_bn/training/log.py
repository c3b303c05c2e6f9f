"""The writer of `log.jsonl`, a run's metrics, in place of labml's own: one JSON object per line."""

import errno
import json
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from labml.internal.tracker.indicators import Indicator
from labml.internal.tracker.writers import Writer
from labml.internal.util.values import to_numpy

from labml_bn.cli.files import sync
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
    """

    def __init__(self) -> None:
        self.path = Path(LOG)
        self._track: dict[str, list[tuple[int, list[float]]]] = {}
        self._start = 0.0

    def open(self, path: Path, position: Position) -> None:
        """Write to this file from now on."""
        self.path = path
        self._track = {}
        self._start = time.monotonic() - position.elapsed

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
        if not self._track:
            return
        line = json.dumps({"track": self._track, "time": time.time(), "elapsed": self.elapsed}) + "\n"
        with self.path.open("ab", buffering=0) as file:
            size = file.tell()
            try:
                written = file.write(line.encode())
                if written < len(line):  # the disk became full
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            except OSError:
                file.truncate(size)
                raise
        self._track = {}

    def position(self) -> Position:
        """The end of the file, once all of it is on the disk. Raises OSError if it cannot be written."""
        self.flush()
        self.path.touch()
        sync(self.path)
        return Position(self.path.stat().st_size, self.elapsed)

    @property
    def elapsed(self) -> float:
        """Seconds of training, without pauses."""
        return time.monotonic() - self._start
