"""Output that can no longer be written: a pipe without a reader (`head`), a closed terminal, a full disk."""

import errno
import os
import sys
from collections.abc import Callable
from typing import Any, TextIO

from labml_bn.cli.errors import reason
from labml_bn.cli.text import printable

#: The errors of a pipe without a reader, and of a terminal that was closed.
GONE = (errno.EPIPE, errno.EIO)


def report(message: str) -> None:
    """Print a line on standard error. It may contain names that someone else has chosen."""
    print(printable(message), file=sys.stderr, flush=True)


def discard(stream: TextIO) -> None:
    """From now on, discard what is written to a stream."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, stream.fileno())
    os.close(null)


class Unbroken:
    """A text stream. Once it cannot be written to, everything is discarded; if it was not closed, `lost` gets why."""

    def __init__(self, stream: TextIO, lost: Callable[[str], object] = lambda why: None) -> None:
        self._stream = stream
        self._lost = lost

    def write(self, text: str) -> int:
        """Write as the stream does."""
        try:
            return self._stream.write(text)
        except OSError as error:
            self._give_up(error)
            return len(text)

    def flush(self) -> None:
        """Flush as the stream does."""
        try:
            self._stream.flush()
        except OSError as error:
            self._give_up(error)

    def _give_up(self, error: OSError) -> None:
        discard(self._stream)
        if error.errno not in GONE:
            self._lost(reason(error))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def continue_without_output() -> None:
    """From now on, standard output that cannot be written is no error; a full disk is reported once."""
    sys.stdout = Unbroken(sys.stdout, _warn)


def continue_without_errors() -> None:
    """From now on, standard error that cannot be written is no error."""
    sys.stderr = Unbroken(sys.stderr)


def _warn(why: str) -> None:
    print(f"warning: cannot write the output: {why}; the rest of it is lost", file=sys.stderr)
