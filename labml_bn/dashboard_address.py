"""Where the dashboard over a folder of runs is to be seen, as long as there is one.

The dashboard leaves its address in a file beside the runs; a training asks there once whether anybody answers, to tell
its user. It does not depend on the dashboard otherwise: the dashboard reads what the training writes.
"""

import contextlib
import http.client
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

#: In every answer of a dashboard, and in its file: another one may have come to the same address.
TOKEN_HEADER = "Dashboard-Token"

_FILE = "dashboard.address"

#: Seconds that a training waits for an answer before it goes on.
_PATIENCE = 0.5


@contextlib.contextmanager
def announced(logs: Path, url: str, token: str) -> Iterator[None]:
    """Leave the address for as long as the block runs."""
    file, content = logs / _FILE, f"{url} {token}\n"
    with contextlib.suppress(OSError):
        file.write_text(content, encoding="utf-8")
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            if file.read_text(encoding="utf-8") == content:
                file.unlink()


def find(logs: Path) -> str | None:
    """The address of the dashboard over these runs, if there is one and it answers."""
    try:
        url, token = (logs / _FILE).read_text(encoding="utf-8").split()
        connection = http.client.HTTPConnection("127.0.0.1", urlsplit(url).port, timeout=_PATIENCE)
        with contextlib.closing(connection):
            connection.request("HEAD", "/")
            return url if connection.getresponse().headers[TOKEN_HEADER] == token else None
    except (OSError, ValueError, http.client.HTTPException):
        return None  # there is no file, or it was left behind by a dashboard that was killed
