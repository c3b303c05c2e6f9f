"""Output whose reader may go away, as `head` does, while the process goes on."""

import os
import sys
from typing import Any, TextIO


class Unbroken:
    """A text stream. What is written after its reader has gone is discarded."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write as the stream does."""
        try:
            return self._stream.write(text)
        except BrokenPipeError:
            self._discard()
            return len(text)

    def flush(self) -> None:
        """Flush as the stream does."""
        try:
            self._stream.flush()
        except BrokenPipeError:
            self._discard()

    def _discard(self) -> None:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, self._stream.fileno())
        os.close(null)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def continue_without_reader() -> None:
    """From now on, standard output and standard error whose reader has gone are no error."""
    sys.stdout, sys.stderr = Unbroken(sys.stdout), Unbroken(sys.stderr)
