"""Open labml's dashboard over the runs in ./logs.

    python -m labml_bn.dashboard                    a page in the browser: the runs, their curves and settings, compared
    python -m labml_bn.dashboard --port 5010        on another port, if 5005 is taken
    python -m labml_bn.dashboard --no-browser       only say where the page is
    python -m labml_bn.dashboard --sync             bring in all runs, also those deleted on the dashboard, and exit

A run that is going on appears as it goes, whichever of the two was started first. Nothing leaves this machine, and
nothing but the logs folder is written to. Ctrl-C ends it.
"""

import secrets
import signal
import socket
import sys
import threading
import webbrowser
from types import FrameType
from typing import NoReturn

from labml_bn.command import Parser, run_command
from labml_bn.dashboard_address import announced
from labml_bn.errors import Terminated, UserError
from labml_bn.files import folder

#: The file beside the runs in which the dashboard keeps what it shows.
DATABASE = "dashboard.sqlite"


def main() -> None:
    """The command."""
    parser = Parser("labml_bn.dashboard", __doc__)
    parser.add_logs_argument()
    parser.add_argument("--port", type=int, default=5005, help="the port of the page (default: 5005)")
    parser.add_argument("--no-browser", action="store_true", help="do not open a browser")
    parser.add_argument("--sync", action="store_true", help="bring in all runs and exit")
    arguments = parser.parse_args()
    logs = folder(str(arguments.logs))

    try:
        import labml_app  # noqa: F401
        import uvicorn

        from labml_bn.dashboard import server
        from labml_bn.dashboard.store import ERRORS, HINT
    except ImportError as error:
        raise UserError(
            f"the dashboard needs packages that are not installed ({error.name}): pip install 'labml-bn[dashboard]'"
        ) from error
    try:
        logs.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot make the folder {logs}: {error.strerror}") from error

    listener = None if arguments.sync else _listen(server.HOST, arguments.port)
    port = listener.getsockname()[1] if listener else arguments.port  # port 0 is any that is free
    try:
        transaction = server.open_database(logs / DATABASE, port)
        from labml_bn.dashboard.importing import Follower, import_runs

        changed = import_runs(logs, transaction, restore=arguments.sync)
    except ERRORS as error:
        raise UserError(f"cannot read the dashboard's data in {logs / DATABASE}: {error}. {HINT}") from error
    print(f"runs brought in from {arguments.logs}: {changed}", flush=True)
    if listener is None:
        return

    url, token = f"http://{server.HOST}:{port}", secrets.token_hex(8)
    app = server.make_app(port, transaction, token)
    signal.signal(signal.SIGTERM, _terminated)
    with announced(logs, url, token), Follower(logs, transaction):
        print(f"dashboard: {url} (Ctrl-C ends it)", flush=True)
        if not arguments.no_browser:
            threading.Timer(0.5, webbrowser.open, [url]).start()
        uvicorn.Server(uvicorn.Config(app, log_level="error", access_log=False)).run(sockets=[listener])


def _terminated(number: int, frame: FrameType | None) -> NoReturn:
    raise Terminated


def _listen(host: str, port: int) -> socket.socket:
    """A socket at the port, taken before anything else is done. Raises UserError where it is not to be had."""
    listener = socket.socket()
    if sys.platform != "win32":
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen()
    except (OSError, OverflowError) as error:
        listener.close()
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"cannot open port {port}: {reason}; choose another with --port") from error
    return listener


if __name__ == "__main__":
    run_command(main)
