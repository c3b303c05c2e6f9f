"""The web server of labml's app: which requests it answers, and how it starts and stops.

labml's own server can be made to send files outside its folder, accepts any Host header, lets other sites read its
responses, and sends tracebacks to the client. So only some of its request handlers are used here (`requests.py`). This
server listens on a loopback address, so that only browsers on this machine reach it; `access.py` says which of them are
let in, and `protocol.py` how long a request may take.
"""

import asyncio
import contextlib
import logging
import secrets
import signal
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

import uvicorn
from fastapi import FastAPI, Request, Response
from fastapi.responses import FileResponse, HTMLResponse, PlainTextResponse
from starlette.exceptions import HTTPException

from labml_bn.cli.errors import Terminated, UserError, reason
from labml_bn.dashboard import assets, page
from labml_bn.dashboard.access import Guard, Next
from labml_bn.dashboard.address import HOST, Address, announced
from labml_bn.dashboard.protocol import AT_ONCE, LimitedProtocol
from labml_bn.dashboard.store import Transaction

if TYPE_CHECKING:
    from labml_bn.dashboard.importing import Follower

#: The first parts of the paths that the page uses. Each is answered with the page, whose script does the rest.
_PAGES = {"run", "runs", "settings", "401", "404", "500", "network_error"}

#: Seconds in which responses are completed when the dashboard ends.
_LAST_SECONDS = 3

#: The signals that end the dashboard. SIGHUP is sent when its terminal is closed.
_ENDING = [signal.SIGINT, signal.SIGTERM, *([signal.SIGHUP] if hasattr(signal, "SIGHUP") else [])]


def listen(port: int) -> socket.socket:
    """A socket that listens on the port; 0 is any free port. Raises UserError if the port cannot be opened."""
    listener = socket.socket()
    if sys.platform != "win32":
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((HOST, port))
        listener.listen()
    except OSError as error:
        listener.close()
        raise UserError(f"cannot open port {port}: {reason(error)}; choose another with --port") from error
    return listener


def serve(
    listener: socket.socket,
    logs: Path,
    transaction: Transaction,
    follower: "Follower",
    opened: Callable[[Address], None],
) -> None:
    """Serve the dashboard, while the follower imports what changes in `logs`, until a signal ends the process.

    `opened` is called with the address. The database is already open.
    """
    address = Address(listener.getsockname()[1], secrets.token_urlsafe(32))
    config = uvicorn.Config(
        make_app(address, logs, transaction),
        http=LimitedProtocol,
        ws="none",
        lifespan="off",
        backlog=AT_ONCE,
        log_level="critical",  # what a client does wrong is not reported on the terminal
        access_log=False,
        timeout_graceful_shutdown=_LAST_SECONDS,
    )
    server = uvicorn.Server(config)
    interrupts: list[KeyboardInterrupt] = []

    def end(number: int, frame: FrameType | None) -> None:
        # Not raised here: Python ignores an exception that a signal raises within a weak reference's callback.
        interrupts.append(KeyboardInterrupt() if number == signal.SIGINT else Terminated())
        server.should_exit = True

    # uvicorn's own handlers are in place while it runs. It raises the signal again when it has shut down.
    for number in _ENDING:
        if signal.getsignal(number) != signal.SIG_IGN:  # as with nohup
            signal.signal(number, end)
    with announced(logs, address), follower:
        opened(address)
        server.run(sockets=[listener])
    if interrupts:
        raise interrupts[0]


def make_app(address: Address, logs: Path, transaction: Transaction) -> FastAPI:
    """labml's app for the runs in `logs`, restricted to browsers that have the token. The database is already open."""
    from labml_app.logger import logger

    from labml_bn.dashboard import handlers, requests

    # It prints every request, and errors in colour. uvicorn enables disabled loggers, but leaves their levels.
    logger.setLevel(logging.CRITICAL + 1)
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    handlers.add_handlers(app, logs)  # the first route that matches a request answers it
    requests.add_app_handlers(app)
    app.add_exception_handler(HTTPException, requests.refused)
    files, html, script = assets.files(), page.html(), page.script()

    @app.api_route("/{path:path}", methods=["GET", "HEAD"])
    async def serve_page(request: Request, path: str) -> Response:
        if path == "js/bundle.min.js":
            return Response(script, media_type="text/javascript")
        if f"/{path}" in files and f"/{path}" != "/index.html":
            return FileResponse(files[f"/{path}"])
        if path == "" or (path.split("/")[0] in _PAGES and ".." not in path):
            return HTMLResponse(html)
        return PlainTextResponse("not found", 404)

    # The middleware that is added last gets a request first.
    app.middleware("http")(_Transactions(transaction))
    app.middleware("http")(Guard(address))
    return app


class _Refused(Exception):  # noqa: N818 - it is not an error of the program
    """Undoes the transaction of a request that is refused."""


class _Transactions:
    """Executes each API request in a transaction, one at a time: the app's handlers await within a request."""

    def __init__(self, transaction: Transaction) -> None:
        self._transaction = transaction
        self._lock = asyncio.Lock()

    async def __call__(self, request: Request, call_next: Next) -> Response:
        if not request.url.path.startswith("/api/"):
            return await call_next(request)
        async with self._lock:
            with contextlib.suppress(_Refused), self._transaction():
                response = await call_next(request)
                if response.status_code >= 400:
                    raise _Refused
            return response
