"""Where a run is on the dashboard, and the files in which a running dashboard leaves its address.

They are beside the runs, and only this user can read them. One is for training: its process reads the file once, at its
start, and checks whether that dashboard answers. Training does not depend on the dashboard otherwise: the dashboard
reads the files that training writes. The other one is for the browser: the arguments with which a browser is started
can be read by all users, and must not contain the token.
"""

import contextlib
import hashlib
import hmac
import html
import os
import re
import secrets
import socket
import stat
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from labml_bn.cli.errors import UserError
from labml_bn.cli.files import replacing
from labml_bn.cli.received import open_to_read

#: The address that the dashboard listens on: other machines cannot reach it.
HOST = "127.0.0.1"

#: The parameter of the address that the dashboard prints. A browser that opens it gets the token as a cookie.
TOKEN = "token"

#: The headers by which a dashboard proves that it has the token, which is not sent: a random text in the request, and
#: a hash of it and the token in the response. After a crash, the file may name a port that another program uses by now.
CHALLENGE_HEADER, PROOF_HEADER = "Dashboard-Challenge", "Dashboard-Proof"

_FILE = "dashboard.address"

#: The file that opens the dashboard in a browser.
PAGE = "dashboard.html"

_CONTENT = re.compile(rf"http://{re.escape(HOST)}:(?P<port>\d{{1,5}})/\?{TOKEN}=(?P<token>[\w-]{{20,100}})\n", re.ASCII)
_CHALLENGE = re.compile("[0-9a-f]{64}")

#: Seconds that training waits for a response before it continues without the link.
_TIMEOUT = 0.5


@dataclass(frozen=True)
class Address:
    """The port of a running dashboard, and the token that it accepts."""

    port: int
    token: str

    @property
    def url(self) -> str:
        """The address without the token, for those who have it in their browser."""
        return f"http://{HOST}:{self.port}"

    def page(self, path: str = "", *, secret: bool) -> str:
        """The address of a page. If `secret`, it lets everybody in who reads it."""
        return f"{self.url}/{path}" + (f"?{TOKEN}={self.token}" if secret else "")

    def proof(self, challenge: str) -> str | None:
        """What only those who have the token can answer to a challenge; None if it is malformed."""
        if not _CHALLENGE.fullmatch(challenge):
            return None
        return hmac.new(self.token.encode(), f"{self.port} {challenge}".encode(), hashlib.sha256).hexdigest()


def run_id(name: str) -> str:
    """The id by which the dashboard knows the run in a folder with this name.

    labml's page needs letters, digits and hyphens; for other names it is a hash, which no other name has as its id.
    """
    if re.fullmatch("[0-9a-zA-Z-]+", name) and not name.startswith("name-"):
        return name
    return f"name-{hashlib.sha256(os.fsencode(name)).hexdigest()[:32]}"


def forwarding(url: str) -> str:
    """A page that opens another one. The browser does not see the latter as opened by another site."""
    no_icon = '<link rel="icon" href="data:,">'  # the browser would request one, which may not exist
    return f'<!DOCTYPE html>{no_icon}<meta http-equiv="refresh" content="0;url={html.escape(url)}">\n'


def announced(logs: Path, address: Address) -> AbstractContextManager[None]:
    """Keep the address in the files while the block runs. Without them, only the links are missing."""
    url = address.page(secret=True)
    return kept({logs / _FILE: f"{url}\n", logs / PAGE: forwarding(url)})


@contextlib.contextmanager
def kept(contents: Mapping[Path, str]) -> Iterator[None]:
    """Keep files with these contents, which only this user can read, while the block runs, as far as that is possible.

    A file that another process has written meanwhile is not deleted.
    """
    for file, content in contents.items():
        with contextlib.suppress(OSError), replacing(file, mode=0o600) as part:
            part.write_text(content, encoding="utf-8")
    try:
        yield
    finally:
        for file, content in contents.items():
            with contextlib.suppress(OSError, UserError, ValueError):
                if _read(file) == content:  # not that of a dashboard that was started later
                    file.unlink()


def find(logs: Path) -> Address | None:
    """The address of the dashboard for the runs in `logs`, or None if none responds."""
    with contextlib.suppress(OSError, UserError, ValueError):
        found = _CONTENT.fullmatch(_read(logs / _FILE))
        if found is not None:
            address = Address(int(found["port"]), found["token"])
            return address if _responds(address) else None
    return None  # there is no file, or a dashboard that was killed left it behind


def link(logs: Path, path: str = "") -> str | None:
    """A page of the dashboard for the runs in `logs`, to be printed; None if none responds.

    Whoever reads the token can use the dashboard, and output that is redirected often has other readers: only a
    terminal is shown the token.
    """
    dashboard = find(logs)
    return None if dashboard is None else dashboard.page(path, secret=sys.stdout.isatty())


def _read(file: Path) -> str:
    """The content of the file. Raises ValueError if another user can have written it."""
    with open_to_read(file) as opened:
        status = os.fstat(opened.fileno())
        if os.name != "nt" and (status.st_uid != os.geteuid() or status.st_mode & (stat.S_IRWXG | stat.S_IRWXO)):
            raise ValueError("the file is not private")
        return opened.read(1000).decode("utf-8")


def _responds(address: Address) -> bool:
    """Whether this dashboard, and no other program, answers at the port within the time."""
    challenge, end = secrets.token_hex(32), time.monotonic() + _TIMEOUT
    request = f"HEAD / HTTP/1.1\r\nHost: {HOST}:{address.port}\r\n{CHALLENGE_HEADER}: {challenge}\r\n"
    with socket.create_connection((HOST, address.port), timeout=_TIMEOUT) as connection:
        connection.sendall(f"{request}Connection: close\r\n\r\n".encode())
        received = b""
        while b"\r\n\r\n" not in received and (left := end - time.monotonic()) > 0:
            connection.settimeout(left)
            more = connection.recv(10_000)
            if not more:
                break
            received += more
    return f"\r\n{PROOF_HEADER}: {address.proof(challenge)}\r\n".lower().encode() in received.lower()
