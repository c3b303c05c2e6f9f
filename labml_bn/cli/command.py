"""The form of every command: its arguments, its exit status, and one line for what went wrong."""

import argparse
import io
import os
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from labml_bn import __version__
from labml_bn.cli.errors import UsageError, UserError, exit_status, is_out_of_memory, reason
from labml_bn.cli.output import GONE, continue_without_errors, discard
from labml_bn.cli.text import printable

_TRACEBACK = "--traceback"


class Parser(argparse.ArgumentParser):
    """The arguments of `python -m MODULE`, whose docstring is its help. Wrong use is reported in one line."""

    def __init__(self, module: str, docstring: str | None, hint: str = "") -> None:
        self._hint = hint
        super().__init__(
            prog=f"python -m {module}", description=docstring, formatter_class=argparse.RawDescriptionHelpFormatter
        )
        self.add_argument("--version", action="version", version=f"labml_bn {__version__}")
        self.add_argument(_TRACEBACK, action="store_true", help="show a traceback if the command fails")

    def error(self, message: str) -> NoReturn:
        """Raise UsageError instead of printing the usage."""
        raise UsageError(f"{message} ({self._hint}see --help)")

    def add_run_argument(self) -> None:
        """Add RUN, and the folder to look for it in."""
        self.add_argument("run", metavar="RUN", help="a run's folder, its uuid or the beginning of it, or `latest`")
        self.add_logs_argument()

    def add_logs_argument(self) -> None:
        """Add the folder of the runs."""
        self.add_argument("--logs", type=Path, default=Path("logs"), metavar="DIR", help="the folder of the runs")

    def add_data_argument(self) -> None:
        """Add the folder of the data sets."""
        self.add_argument("--data", metavar="DIR", help="the folder of the data sets (default: as in the run)")


def run_command(main: Callable[[], None]) -> NoReturn:
    """Run a command and exit: 0 success, 1 failure, 2 wrong use, or that of a signal; one line says why.

    The exit status is the same if standard error cannot be written.
    """
    status = 0
    # A standard stream that was closed before the start is None: what is written to it is discarded.
    sys.stdout = sys.stdout or open(os.devnull, "w")  # noqa: PTH123, SIM115
    sys.stderr = sys.stderr or open(os.devnull, "w")  # noqa: PTH123, SIM115
    continue_without_errors()
    if isinstance(sys.stdout, io.TextIOWrapper):  # a name may have characters that the terminal's encoding lacks
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        main()
        sys.stdout.flush()
    except UserError as error:
        if _TRACEBACK in sys.argv:
            traceback.print_exc()
        print(printable(" ".join([f"{error.label}:", *str(error).split()])), file=sys.stderr)  # one line
        status = error.status
    except KeyboardInterrupt as interrupt:
        print("interrupted", file=sys.stderr)
        status = exit_status(interrupt)
    except OSError as error:
        # Errors of all other files are already UserErrors, so this was the output. If its reader has gone, as `head`
        # does, there is nothing to report. Python would complain again when it closes stdout.
        discard(sys.stdout)
        if error.errno not in GONE:
            print(f"error: {reason(error)}", file=sys.stderr)
        status = 1
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        if _TRACEBACK in sys.argv:
            traceback.print_exc()
        print(
            f"error: the system gives this process no more memory or threads ({_TRACEBACK} shows what for)",
            file=sys.stderr,
        )
        status = 1
    # The outcome is decided: neither Ctrl-C nor a terminal that is closed changes it during the exit.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "SIGHUP"):  # Windows has none
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
    sys.exit(status)
