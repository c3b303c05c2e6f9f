"""Output whose reader may close the pipe, as `head` does, while the process continues."""

import os
import sys
from typing import Any, TextIO


def discard(stream: TextIO) -> None:
    """From now on, discard what is written to a stream."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, stream.fileno())
    os.close(null)


class Unbroken:
    """A text stream. What is written after its reader has gone is discarded."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write as the stream does."""
        try:
            return self._stream.write(text)
        except BrokenPipeError:
            discard(self._stream)
            return len(text)

    def flush(self) -> None:
        """Flush as the stream does."""
        try:
            self._stream.flush()
        except BrokenPipeError:
            discard(self._stream)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def continue_without_reader() -> None:
    """From now on, standard output and standard error whose reader has gone are no error."""
    sys.stdout, sys.stderr = Unbroken(sys.stdout), Unbroken(sys.stderr)
