"""The comparison page of runs that may still be running: served on this machine, with newer data when there are any.

Which runs match is found out again each time, so that the runs that a sweep starts appear. The page asks every few
seconds; only runs whose files have changed are read again.
"""

import contextlib
import hashlib
import secrets
import threading
import webbrowser
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from fastapi import FastAPI, Request, Response
from fastapi.responses import HTMLResponse, PlainTextResponse

from labml_bn.cli.errors import UserError
from labml_bn.cli.output import report
from labml_bn.cli.received import UnreadableError
from labml_bn.dashboard import serving
from labml_bn.dashboard.access import Guard
from labml_bn.dashboard.address import Address, forwarding, kept
from labml_bn.records import notes
from labml_bn.records.comparison import page
from labml_bn.records.comparison.page_data import make_data
from labml_bn.records.finding import find_runs
from labml_bn.records.folder import CONFIGS, ENDS, INFO, LOG, is_running
from labml_bn.records.record import Record, Series, read_run

#: The file beside the runs that opens the page in a browser.
PAGE = "comparison.html"

#: What changes when something is recorded of a run.
_FILES = (INFO, CONFIGS, LOG, ENDS, notes.FILE)

_Stamp = tuple[object, ...]


def serve(names: Sequence[str], logs: Path, port: int, *, opens_browser: bool) -> None:
    """Serve the page of the runs that `names` mean until a signal ends the process.

    Raises UserError if there are none, or if the port cannot be opened.
    """
    runs = MatchingRuns(names, logs)
    runs.data()
    listener = serving.listen(port)
    address = Address(listener.getsockname()[1], secrets.token_urlsafe(32))
    file = logs.absolute() / PAGE

    @contextlib.contextmanager
    def meanwhile() -> Iterator[None]:
        with kept({file: forwarding(address.page(secret=True))}):
            print(f"comparison: {address.page(secret=True)} (Ctrl-C ends it)", flush=True)
            if opens_browser and file.is_file():
                threading.Timer(0.5, webbrowser.open, [file.as_uri()]).start()
            yield

    serving.run(make_app(address, runs), listener, meanwhile())


class MatchingRuns:
    """The runs that some names mean, which are read again when they have changed."""

    def __init__(self, names: Sequence[str], logs: Path) -> None:
        self._names = names
        self._logs = logs
        self._lock = threading.Lock()
        self._read: dict[Path, tuple[_Stamp, Record, Mapping[str, Series]]] = {}
        self._stamps: dict[Path, _Stamp] = {}
        self._data = ""
        self._reported: set[str] = set()

    def data(self) -> str:
        """The data of the page as JSON. Raises UserError if no run matches."""
        with self._lock:
            stamps = {run: _stamp(run) for run in find_runs(self._names, self._logs)}
            if stamps != self._stamps or not self._data:
                self._read = dict(self._changed(stamps))
                if not self._read:
                    raise UserError("there are no runs to compare")
                records, metrics = zip(*((record, metrics) for _, record, metrics in self._read.values()), strict=True)
                self._data = page.as_json(make_data(records, metrics))
                self._stamps = stamps
            return self._data

    def _changed(
        self, stamps: Mapping[Path, _Stamp]
    ) -> Iterator[tuple[Path, tuple[_Stamp, Record, Mapping[str, Series]]]]:
        for run, stamp in stamps.items():
            before = self._read.get(run)
            if before is not None and before[0] == stamp:
                yield run, before
                continue
            try:
                record = read_run(run)
                yield run, (stamp, record, record.metrics())
            except UnreadableError as error:
                if str(error) not in self._reported:
                    self._reported.add(str(error))
                    report(f"warning: this run cannot be read: {error}")


def _stamp(run: Path) -> _Stamp:
    """What differs if something was recorded of a run since."""
    found: list[object] = [is_running(run)]
    for name in _FILES:
        try:
            status = (run / name).stat()
            found.append((status.st_size, status.st_mtime_ns))
        except OSError:
            found.append(None)
    return tuple(found)


def make_app(address: Address, runs: MatchingRuns) -> FastAPI:
    """The page and its data, for browsers that have the token."""
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    policy = f"{page.policy(live=True)}; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"

    @app.api_route("/", methods=["GET", "HEAD"])
    def whole_page() -> Response:
        try:
            return HTMLResponse(page.html(runs.data(), live=True), headers={"Content-Security-Policy": policy})
        except UserError as error:
            return PlainTextResponse(str(error), 503)

    @app.get("/api/data")
    def newer_data(request: Request) -> Response:
        try:
            data = runs.data().encode()
        except UserError as error:
            return PlainTextResponse(str(error), 503)
        version = f'"{hashlib.sha256(data).hexdigest()}"'
        if request.headers.get("if-none-match") == version:
            return Response(status_code=304)
        return Response(data, media_type="application/json", headers={"ETag": version})

    app.middleware("http")(Guard(address, "comparison"))
    return app
