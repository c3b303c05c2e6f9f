"""Fetching a file from a server that is not trusted: over https only, within limits of size and time."""

import contextlib
import io
import queue
import threading
import time
import urllib.request
import zlib
from http.client import HTTPException
from typing import IO, Any
from urllib.error import HTTPError

from tqdm import tqdm

#: Seconds without a byte after which a server is considered unreachable.
PATIENCE = 5.0

#: Seconds for a file. The largest, 26 MB, takes this long at 43 kB/s.
DEADLINE = 600.0


class SourceError(Exception):
    """A source could not provide a file; the message is the reason."""


def largest_archive(size: int) -> int:
    """The most bytes that a .gz archive of `size` bytes can have, with its header."""
    return size + size // 1000 + 1024


def unpack(archive: bytes, size: int) -> bytes:
    """The content of a .gz archive, `size` bytes. No more is unpacked. Raises SourceError if it has more or fewer."""
    try:
        content = zlib.decompressobj(wbits=31).decompress(archive, size + 1)
    except zlib.error as error:
        raise SourceError("its archive is damaged") from error
    if len(content) != size:
        raise SourceError("its archive is damaged")
    return content


def fetch(url: str, most: int) -> bytes:
    """The bytes at `url`, at most so many, with a progress bar on a terminal. Raises SourceError.

    The timeouts of sockets cover neither the DNS lookup, nor all the addresses of a host, nor a server that sends a
    byte now and then. So a thread fetches the file, and is abandoned if it takes too long.
    """
    parts: queue.Queue[Any] = queue.Queue()
    abandoned = threading.Event()
    threading.Thread(target=_receive, args=(url, parts, abandoned), daemon=True).start()
    name = url.rsplit("/", 1)[-1]
    end = time.monotonic() + DEADLINE
    content = io.BytesIO()
    try:
        total = _next(parts, end)
        if total is not None and total > most:
            raise SourceError(f"{name} is larger than {most:,} bytes")
        with tqdm(total=total, desc=name, unit="B", unit_scale=True, leave=False, disable=None) as bar:
            while part := _next(parts, end):
                if content.tell() + len(part) > most:
                    raise SourceError(f"{name} is larger than {most:,} bytes")
                content.write(part)
                bar.update(len(part))
    finally:
        abandoned.set()
    if total is not None and content.tell() < total:
        raise SourceError(f"{name} is incomplete")
    return content.getvalue()


def _next(parts: "queue.Queue[Any]", end: float) -> Any:
    """What the thread has received next. Raises SourceError if that fails, or takes too long."""
    try:
        part = parts.get(timeout=max(min(PATIENCE, end - time.monotonic()), 0))
    except queue.Empty:
        late = time.monotonic() >= end
        raise SourceError(f"not complete after {DEADLINE:g} s" if late else f"no answer in {PATIENCE:g} s") from None
    if isinstance(part, SourceError):
        raise part
    return part


def _receive(url: str, parts: "queue.Queue[Any]", abandoned: threading.Event) -> None:
    """Put into `parts` how many bytes the server will send (None if it does not say), the bytes, and b"" at the end."""
    try:
        with contextlib.closing(_opener().open(url, timeout=PATIENCE)) as response:
            parts.put(int(response.headers["Content-Length"]) if "Content-Length" in response.headers else None)
            while not abandoned.is_set():
                part = response.read1(1 << 16)
                parts.put(part)
                if not part:
                    return
    except SourceError as error:
        parts.put(error)
    except (OSError, HTTPException, ValueError) as error:  # URLError, HTTPError and timeouts are OSErrors
        if isinstance(error, HTTPError):
            error.close()
        parts.put(SourceError(" ".join(str(getattr(error, "reason", error)).split())))


def _opener() -> urllib.request.OpenerDirector:
    """What opens https addresses, through the user's proxy if there is one, and no others."""
    opener = urllib.request.OpenerDirector()
    proxies = {scheme: proxy for scheme, proxy in urllib.request.getproxies().items() if scheme == "https"}
    for handler in (
        urllib.request.ProxyHandler(proxies),
        urllib.request.HTTPSHandler(),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPErrorProcessor(),
        urllib.request.UnknownHandler(),
        _SecureRedirects(),
    ):
        opener.add_handler(handler)
    return opener


class _SecureRedirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects to https addresses only."""

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: Any, newurl: str
    ) -> urllib.request.Request | None:
        if not newurl.lower().startswith("https:"):
            raise SourceError(f"redirected to an address that is not https: {newurl[:100]}")
        return super().redirect_request(req, fp, code, msg, headers, newurl)
