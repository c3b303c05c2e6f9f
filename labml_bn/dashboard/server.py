"""labml's app behind a door of our own: what is served, and to whom.

labml's own server reaches files outside its folder, takes any host's name, lets another site read it, and sends its
tracebacks. So only its handlers are used here. This server answers a browser on this machine, and nobody else: the
address is a loopback one, and a page of another site, whatever name it gives this machine, is refused.
"""

import asyncio
import contextlib
import os
import sys
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

from fastapi import FastAPI, Request, Response
from fastapi.responses import FileResponse, HTMLResponse, JSONResponse, PlainTextResponse

from labml_bn.dashboard import assets
from labml_bn.dashboard.store import Store, Transaction
from labml_bn.dashboard_address import TOKEN_HEADER
from labml_bn.errors import UserError

#: The address that the server has.
HOST = "127.0.0.1"

Next = Callable[[Request], Awaitable[Response]]

#: Routes of labml's app that are not offered: runs come from the logs folder alone, not over the network.
_NOT_OFFERED = {"/api/v1/{labml_token}/track", "/api/v1/{labml_token}/computer"}

#: The first words of the addresses at which the page shows something; it finds its way from there.
_PAGES = {"run", "runs", "session", "computers", "settings", "401", "404", "500", "network_error"}

_HEADERS = {
    # The browser itself holds the page to this machine.
    "Content-Security-Policy": (
        "default-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}


def open_database(path: Path, port: int) -> Transaction:
    """Give labml's app its database: the one at MONGO_HOST where that is set, else the SQLite file at `path`.

    Returns what makes a transaction of it. Raises UserError where the database cannot be had.
    """
    # labml's app reads these when it is imported.
    os.environ["LABML_APP_SERVER_IP"] = HOST
    os.environ["LABML_APP_SERVER_PORT"] = str(port)
    from labml_app import db, settings
    from labml_app.db import project

    from labml_bn.dashboard.importing import ImportedIndex, local_user

    db.indexes.append(ImportedIndex)
    transaction: Transaction
    if "MONGO_HOST" in os.environ:
        transaction = _one_at_a_time(threading.RLock())
        try:
            db.init_mongo_db()
        except Exception as error:
            raise UserError(f"MONGO_HOST={os.environ['MONGO_HOST']}: {error}") from error
    else:
        store = Store(path)
        store.serve(db.models, db.indexes)
        transaction = store.transaction
        with transaction():
            project.create_project(settings.FLOAT_PROJECT_TOKEN, "float project")
            project.create_project(settings.SAMPLES_PROJECT_TOKEN, "samples project")
    with transaction():
        # What asks for no project by name gets the user's.
        project.ProjectIndex.set("", local_user().projects[0])
    return transaction


def _one_at_a_time(lock: AbstractContextManager[object]) -> Transaction:
    """What a transaction is to a database without them: at least no other of this process."""

    @contextlib.contextmanager
    def transaction() -> Iterator[None]:
        with lock:
            yield

    return transaction


def make_app(port: int, transaction: Transaction, token: str) -> FastAPI:
    """labml's app, for a browser on this machine. The database is open already.

    `token` is in the headers of all answers, for a training to tell its own dashboard from another.
    """
    from labml_app import handlers
    from labml_app.logger import logger

    logger.disabled = True  # it tells of each request
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    handlers.add_handlers(app)
    app.router.routes[:] = [route for route in app.routes if getattr(route, "path", "") not in _NOT_OFFERED]
    files, page = assets.files(), assets.page()

    @app.api_route("/{path:path}", methods=["GET", "HEAD"])
    async def serve(request: Request, path: str) -> Response:
        if f"/{path}" in files and f"/{path}" != "/index.html":
            return FileResponse(files[f"/{path}"])
        if path == "" or (path.split("/")[0] in _PAGES and ".." not in path):
            return HTMLResponse(page)
        return PlainTextResponse("not found", 404)

    # The one that is added last is the first to see a request.
    app.middleware("http")(_OneAtATime(transaction))
    app.middleware("http")(_Guard(port, token))
    return app


class _Guard:
    """Refuses what does not come from this dashboard's own page, and keeps errors to the terminal."""

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
            return PlainTextResponse(f"this is not the dashboard's address: {min(self._origins)}", 403)
        origin = request.headers.get("origin")
        from_elsewhere = request.headers.get("sec-fetch-site", "none") not in {"none", "same-origin"}
        is_state = request.url.path.startswith("/api/") or request.method not in {"GET", "HEAD"}
        if (origin is not None and origin not in self._origins) or (from_elsewhere and is_state):
            return PlainTextResponse("the dashboard answers to its own page only", 403)
        return None

    async def _answer(self, request: Request, call_next: Next) -> Response:
        try:
            return await call_next(request)
        except Exception as error:
            print(f"{request.method} {request.url.path} failed: {error!r}", file=sys.stderr)
            return JSONResponse({"error": "this did not work: the dashboard's terminal says why"}, 500)


class _OneAtATime:
    """Each request to labml's app is one transaction: two would mix, since the app waits in the middle of them."""

    def __init__(self, transaction: Transaction) -> None:
        self._transaction = transaction
        self._lock = asyncio.Lock()

    async def __call__(self, request: Request, call_next: Next) -> Response:
        if not request.url.path.startswith("/api/"):
            return await call_next(request)
        await request.body()  # before the others have to wait
        async with self._lock:
            with self._transaction():
                return await call_next(request)
