"""The file in which a running dashboard leaves its URL. Training reads it, to print a link to the run's page.

The file is beside the runs. A training process reads it once, at its start, and checks whether the dashboard answers.
Training does not depend on the dashboard otherwise: the dashboard reads the files that training writes.
"""

import contextlib
import http.client
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

#: The address that the dashboard listens on: other machines cannot reach it.
HOST = "127.0.0.1"

#: The header of every response with the dashboard's token, which is also in the file. After a crash, the file may name
#: a port that another dashboard uses by now.
TOKEN_HEADER = "Dashboard-Token"

_FILE = "dashboard.address"

#: Seconds that training waits for a response before it continues without the link.
_TIMEOUT = 0.5


@contextlib.contextmanager
def announced(logs: Path, url: str, token: str) -> Iterator[None]:
    """Keep the URL in the file while the block runs."""
    file, content = logs / _FILE, f"{url} {token}\n"
    with contextlib.suppress(OSError):
        file.write_text(content, encoding="utf-8")
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            if file.read_text(encoding="utf-8") == content:  # not that of a dashboard that was started later
                file.unlink()


def find(logs: Path) -> str | None:
    """The URL of the dashboard for the runs in `logs`, or None if none responds."""
    try:
        url, token = (logs / _FILE).read_text(encoding="utf-8").split()
        connection = http.client.HTTPConnection(HOST, urlsplit(url).port, timeout=_TIMEOUT)
        with contextlib.closing(connection):
            connection.request("HEAD", "/")
            return url if connection.getresponse().headers[TOKEN_HEADER] == token else None
    except (OSError, ValueError, http.client.HTTPException):
        return None  # there is no file, or a dashboard that was killed left it behind
