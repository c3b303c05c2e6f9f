"""Open labml's dashboard for the runs in ./logs: their curves and settings, and comparisons of runs.

    python -m labml_bn.dashboard                    open the dashboard in the browser
    python -m labml_bn.dashboard --port 5010        use another port, if 5005 is taken
    python -m labml_bn.dashboard --no-browser       print the dashboard's URL, but do not open a browser
    python -m labml_bn.dashboard --sync             import all runs, including those deleted on the dashboard, and exit

Runs that are still training are updated live, whether they started before or after the dashboard. No data leaves this
machine. The printed URL contains a token, without which the dashboard lets nobody in. Ctrl-C ends the dashboard.
"""

import threading
import webbrowser

from labml_bn.cli.command import Parser, run_command
from labml_bn.cli.errors import UsageError, UserError, os_errors_as
from labml_bn.cli.files import resolve_folder


def main() -> None:
    """The command."""
    parser = Parser("labml_bn.dashboard", __doc__)
    parser.add_logs_argument()
    parser.add_argument("--port", type=int, default=5005, help="the port of the dashboard (default: 5005)")
    parser.add_argument("--no-browser", action="store_true", help="do not open a browser")
    parser.add_argument("--sync", action="store_true", help="import all runs and exit")
    arguments = parser.parse_args()
    logs = resolve_folder(str(arguments.logs))
    if not 0 <= arguments.port <= 65535:
        raise UsageError(f"--port {arguments.port}: a port is a number from 0 to 65535")
    if arguments.logs != parser.get_default("logs") and not logs.exists():
        raise UserError(f"there is no folder {arguments.logs}")

    try:
        import labml_app  # noqa: F401 - `database` imports the rest of it later

        from labml_bn.dashboard import database, server, serving
        from labml_bn.dashboard.address import PAGE, Address
    except ImportError as error:
        raise UserError(
            f"the dashboard needs packages that are not installed ({error.name}): pip install 'labml-bn[dashboard]'"
        ) from error

    def opened(address: Address) -> None:
        print(f"dashboard: {address.page(secret=True)} (Ctrl-C ends it)", flush=True)
        if not arguments.no_browser and (logs / PAGE).is_file():
            threading.Timer(0.5, webbrowser.open, [(logs / PAGE).as_uri()]).start()

    with os_errors_as(f"cannot create the folder {logs}"):
        logs.mkdir(parents=True, exist_ok=True)
    listener = None if arguments.sync else serving.listen(arguments.port)
    transaction, follower, changed = database.open_with_runs(logs, restore=arguments.sync)
    print(f"imported runs from {arguments.logs}: {changed}", flush=True)
    if listener is not None:
        server.serve(listener, logs, transaction, follower, opened)


if __name__ == "__main__":
    run_command(main)
