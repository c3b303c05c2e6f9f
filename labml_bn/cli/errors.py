"""Errors that a user can cause. A command reports each in one line, without a traceback."""

import contextlib
import errno
import os
import re
from collections.abc import Iterator

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]


class UserError(Exception):
    """Something that the user can fix. The message is one line: what is wrong, and what to do."""

    label = "error"
    status = 1  # the exit status of a command that failed


class UsageError(UserError):
    """A command, key or value that is written wrong."""

    status = 2


class StoppedError(UserError):
    """A signal ended a run; the message says how to resume it. `status` is that of `exit_status`."""

    label = "interrupted"

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class Terminated(KeyboardInterrupt):
    """The system asks the process to end (SIGTERM)."""


class HungUp(KeyboardInterrupt):
    """The terminal of the process was closed (SIGHUP)."""


def exit_status(interrupt: KeyboardInterrupt) -> int:
    """The exit status for Ctrl-C (130), SIGTERM (143) or SIGHUP (129)."""
    return {Terminated: 143, HungUp: 129}.get(type(interrupt), 130)


def reason(error: OSError | MemoryError) -> str:
    """Why a system call failed, in the system's words: `No space left on device`."""
    if isinstance(error, MemoryError):
        return os.strerror(errno.ENOMEM)
    return error.strerror or str(error)


#: What Python, PyTorch and the system's loader of libraries say if they get no memory, besides MemoryError.
_OUT_OF_MEMORY = re.compile(
    "failed to map segment|cannot map|can.?t allocate memory|cannot allocate memory|not enough memory|out of memory|"
    "can't start new thread",
    re.IGNORECASE,
)


def is_out_of_memory(error: Exception) -> bool:
    """Whether this error means that the system gives no more memory, address space (`ulimit -v`) or threads.

    With a limit of the address space, any unexpected error does: libraries that get no memory raise errors that do not
    mention it.
    """
    known = isinstance(error, MemoryError) or bool(_OUT_OF_MEMORY.search(str(error)))
    return known or (resource is not None and resource.getrlimit(resource.RLIMIT_AS)[0] != resource.RLIM_INFINITY)


@contextlib.contextmanager
def os_errors_as(message: str) -> Iterator[None]:
    """Turn an OSError in the block into a UserError: `message`, then the reason."""
    try:
        yield
    except OSError as error:
        raise UserError(f"{message}: {reason(error)}") from error
