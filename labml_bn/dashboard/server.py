"""The web server of labml's app: which requests it answers. `serving.py` starts and stops it.

labml's own server can be made to send files outside its folder, accepts any Host header, lets other sites read its
responses, and sends tracebacks to the client. So only some of its request handlers are used here (`requests.py`). This
server listens on a loopback address, so that only browsers on this machine reach it; `access.py` says which of them are
let in, and `protocol.py` how long a request may take.
"""

import asyncio
import contextlib
import logging
import secrets
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from fastapi import FastAPI, Request, Response
from fastapi.responses import FileResponse, HTMLResponse, PlainTextResponse
from starlette.exceptions import HTTPException

from labml_bn.dashboard import assets, page, serving
from labml_bn.dashboard.access import Guard, Next
from labml_bn.dashboard.address import Address, announced
from labml_bn.dashboard.store import Transaction

if TYPE_CHECKING:
    from labml_bn.dashboard.importing import Follower

#: The first parts of the paths that the page uses. Each is answered with the page, whose script does the rest.
_PAGES = {"run", "runs", "settings", "401", "404", "500", "network_error"}


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

    @contextlib.contextmanager
    def meanwhile() -> Iterator[None]:
        with announced(logs, address), follower:
            opened(address)
            yield

    serving.run(make_app(address, logs, transaction), listener, meanwhile())


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
    app.middleware("http")(Guard(address, "dashboard"))
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
