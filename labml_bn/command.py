"""What all commands share: the form of their arguments, and how they end."""

import argparse
import os
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from labml_bn.errors import Terminated, UsageError, UserError

_TRACEBACK = "--traceback"


class Parser(argparse.ArgumentParser):
    """The arguments of `python -m MODULE`; its docstring is its help. Wrong use is one line."""

    def __init__(self, module: str, docstring: str | None, hint: str = "") -> None:
        self._hint = hint
        super().__init__(
            prog=f"python -m {module}", description=docstring, formatter_class=argparse.RawDescriptionHelpFormatter
        )
        self.add_argument(_TRACEBACK, action="store_true", help="where it fails, show where in the code")

    def error(self, message: str) -> NoReturn:
        """Say what is wrong, and where to read how it is done right."""
        raise UsageError(f"{message} ({self._hint}see --help)")

    def add_run_argument(self) -> None:
        """RUN, and the folder where it is looked for."""
        self.add_argument("run", metavar="RUN", help="a run's folder, its uuid or the beginning of it, or `latest`")
        self.add_logs_argument()

    def add_logs_argument(self) -> None:
        """Where the runs are."""
        self.add_argument("--logs", type=Path, default=Path("logs"), metavar="DIR", help="the folder of the runs")

    def add_data_argument(self) -> None:
        """Where the data sets are, if not where the run had them."""
        self.add_argument("--data", metavar="DIR", help="the folder of the data sets (default: as in the run)")


def run_command(main: Callable[[], None]) -> NoReturn:
    """Run a command and exit: 0 done, 1 failed, 2 wrong use, 130 or 143 stopped by a signal. One line says why."""
    status = 0
    # A standard stream that was closed before the start is None: what is written to it goes nowhere.
    sys.stdout = sys.stdout or open(os.devnull, "w")  # noqa: PTH123, SIM115
    sys.stderr = sys.stderr or open(os.devnull, "w")  # noqa: PTH123, SIM115
    try:
        main()
        sys.stdout.flush()
    except UserError as error:
        if _TRACEBACK in sys.argv:
            traceback.print_exc()
        print("error:", *str(error).split(), file=sys.stderr)  # one line, whatever a file's name has in it
        status = error.status
    except KeyboardInterrupt as interrupt:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # it is ending already
        print(": ".join(["interrupted", *map(str, interrupt.args)]), file=sys.stderr)
        status = 143 if isinstance(interrupt, Terminated) else 130
    except OSError as error:
        # Every other file is written under the eyes of a UserError: this was the output. Where whoever read it has
        # gone, as `head` does, nothing needs to be said. Python would complain once more when it closes stdout.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if not isinstance(error, BrokenPipeError):
            print(f"error: {error.strerror or error}", file=sys.stderr)
        status = 1
    sys.exit(status)
