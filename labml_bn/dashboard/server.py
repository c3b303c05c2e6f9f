"""The web server of labml's app: which requests it answers, and how it starts and stops.

labml's own server can be made to send files outside its folder, accepts any Host header, lets other sites read its
responses, and sends tracebacks to the client. So only its request handlers are used here. This server listens on a
loopback address, so that only browsers on this machine reach it. It refuses requests from the pages of other sites,
and requests with another Host header (DNS rebinding).
"""

import asyncio
import logging
import secrets
import signal
import socket
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import FrameType

import uvicorn
from fastapi import FastAPI, Request, Response
from fastapi.responses import FileResponse, HTMLResponse, JSONResponse, PlainTextResponse

from labml_bn.cli.errors import Terminated, UserError, reason
from labml_bn.dashboard import assets, page
from labml_bn.dashboard.address import HOST, TOKEN_HEADER, announced
from labml_bn.dashboard.store import Transaction

Next = Callable[[Request], Awaitable[Response]]

#: Routes of labml's app that are left out: runs are imported from the logs folder, not sent over the network.
_REMOVED = {"/api/v1/{labml_token}/track", "/api/v1/{labml_token}/computer"}

#: The first parts of the paths that the page uses. Each is answered with the page, whose script does the rest.
_PAGES = {"run", "runs", "settings", "401", "404", "500", "network_error"}

_HEADERS = {
    # The browser refuses to load anything from other hosts into the page.
    "Content-Security-Policy": (
        "default-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-cache",  # the page of another version of this package has the same URLs
    "Referrer-Policy": "no-referrer",
}


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


def serve(listener: socket.socket, logs: Path, transaction: Transaction, opened: Callable[[str], None]) -> None:
    """Serve the dashboard, and import what changes in `logs`, until a signal ends the process.

    `opened` is called with the URL. The database is already open.
    """
    from labml_bn.dashboard.importing import Follower

    port = listener.getsockname()[1]
    url, token = f"http://{HOST}:{port}", secrets.token_hex(8)
    app = make_app(port, logs, transaction, token)
    server = uvicorn.Server(uvicorn.Config(app, log_level="error", access_log=False))
    interrupts: list[KeyboardInterrupt] = []

    def end(number: int, frame: FrameType | None) -> None:
        # Not raised here: Python ignores an exception that a signal raises within a weak reference's callback.
        interrupts.append(Terminated() if number == signal.SIGTERM else KeyboardInterrupt())
        server.should_exit = True

    # uvicorn's own handlers are in place while it runs. It raises the signal again when it has shut down.
    signal.signal(signal.SIGINT, end)
    signal.signal(signal.SIGTERM, end)
    with announced(logs, url, token), Follower(logs, transaction):
        opened(url)
        server.run(sockets=[listener])
    if interrupts:
        raise interrupts[0]


def make_app(port: int, logs: Path, transaction: Transaction, token: str) -> FastAPI:
    """labml's app for the runs in `logs`, restricted to browsers on this machine. The database is already open.

    `token` is in the headers of all responses, so that training can distinguish its dashboard from others.
    """
    import labml_app.handlers
    from labml_app.logger import logger

    from labml_bn.dashboard import handlers

    # It prints every request, and errors in colour. uvicorn enables disabled loggers, but leaves their levels.
    logger.setLevel(logging.CRITICAL + 1)
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    handlers.add_handlers(app, logs)  # the first route that matches a request answers it
    labml_app.handlers.add_handlers(app)
    app.router.routes[:] = [route for route in app.routes if getattr(route, "path", "") not in _REMOVED]
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
    app.middleware("http")(_Guard(port, token))
    return app


class _Guard:
    """Refuses requests that do not come from the dashboard's own page, and reports errors on the terminal only."""

    def __init__(self, port: int, token: str) -> None:
        self._hosts = {name if port == 80 else f"{name}:{port}" for name in (HOST, "localhost")}
        self._headers = {**_HEADERS, TOKEN_HEADER: token}
        self._origins = {f"http://{host}" for host in self._hosts}

    async def __call__(self, request: Request, call_next: Next) -> Response:
        response = self._refusal(request) or await self._answer(request, call_next)
        response.headers.update(self._headers)
        return response

    def _refusal(self, request: Request) -> Response | None:
        if request.headers.get("host") not in self._hosts:
            return PlainTextResponse(f"wrong host: the dashboard's address is {min(self._origins)}", 403)
        origin = request.headers.get("origin")
        is_cross_site = request.headers.get("sec-fetch-site", "none") not in {"none", "same-origin"}
        is_protected = request.url.path.startswith("/api/") or request.method not in {"GET", "HEAD"}
        if (origin is not None and origin not in self._origins) or (is_cross_site and is_protected):
            return PlainTextResponse("requests from other sites are refused", 403)
        return None

    async def _answer(self, request: Request, call_next: Next) -> Response:
        try:
            return await call_next(request)
        except Exception as error:
            print(f"{request.method} {request.url.path} failed: {error!r}", file=sys.stderr)
            return JSONResponse({"error": "internal error; the reason is on the dashboard's terminal"}, 500)


class _Transactions:
    """Executes each API request in a transaction, one at a time: the app's handlers await within a request."""

    def __init__(self, transaction: Transaction) -> None:
        self._transaction = transaction
        self._lock = asyncio.Lock()

    async def __call__(self, request: Request, call_next: Next) -> Response:
        if not request.url.path.startswith("/api/"):
            return await call_next(request)
        await request.body()  # received before the lock is taken: a slow client does not block the others
        async with self._lock:
            with self._transaction():
                return await call_next(request)
