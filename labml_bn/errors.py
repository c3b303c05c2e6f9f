"""The errors that a person at the keyboard can cause, and how a command ends."""

import os
import sys
from collections.abc import Callable
from typing import NoReturn


class UserError(Exception):
    """Something that the user can mend. Its message is one line: what is wrong, and what to do."""

    status = 1  # the exit status of a command that failed


class UsageError(UserError):
    """A command, a key or a value that was written wrong."""

    status = 2


def run_command(main: Callable[[], None]) -> NoReturn:
    """Run a command and exit: 0 done, 1 failed, 2 wrong use, 130 stopped by Ctrl-C. One line says why."""
    status = 0
    try:
        main()
        sys.stdout.flush()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        status = error.status
    except KeyboardInterrupt as interrupt:
        print(": ".join(["interrupted", *map(str, interrupt.args)]), file=sys.stderr)
        status = 130
    except BrokenPipeError:
        # Whoever read the output has gone, as `head` does. Python would complain once more when it closes stdout.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = 1
    sys.exit(status)
