"""Fetching from a real https server that attacks: with too many bytes, too slowly, or from another place."""

import gzip
import http.server
import socket
import threading
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from labml_bn.data import fetching
from labml_bn.data.fetching import SourceError, fetch, largest_archive, unpack
from tests.data.conftest import Mirror


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Servers are considered unreachable after a second of silence, and a file must come within three."""
    monkeypatch.setattr(fetching, "PATIENCE", 1.0)
    monkeypatch.setattr(fetching, "DEADLINE", 3.0)


def test_unpack() -> None:
    for size in (0, 10, 100_000):
        assert unpack(gzip.compress(bytes(size)), size) == bytes(size)
        for other in (size - 1, size + 1):
            with pytest.raises(SourceError, match="its archive is damaged"):
                unpack(gzip.compress(bytes(size)), other)
    for archive in (b"", b"text", gzip.compress(bytes(1000))[:-20]):
        with pytest.raises(SourceError, match="its archive is damaged"):
            unpack(archive, 1000)


def test_a_bomb() -> None:
    """No more than the known size is unpacked."""
    bomb = gzip.compress(bytes(200_000_000), compresslevel=1)
    tracemalloc.start()
    try:
        with pytest.raises(SourceError, match="its archive is damaged"):
            unpack(bomb, 10_008)
        assert tracemalloc.get_traced_memory()[1] < 5_000_000
    finally:
        tracemalloc.stop()


def test_the_largest_archive() -> None:
    noise = bytes(number * 7919 % 251 for number in range(1_000_000))
    for size in (10, 10_008, 1_000_000):
        assert len(gzip.compress(noise[:size], compresslevel=0)) < largest_archive(size) < 1.01 * size + 1100


def test_fetch(mirror: Mirror) -> None:
    mirror.answer = lambda path: path.encode() * 1000
    assert fetch(f"{mirror.url}some/file", 9000) == b"some/file" * 1000


def respond_endless(handler: Any) -> None:
    handler.send_response(200)
    handler.end_headers()
    while True:
        handler.wfile.write(bytes(1 << 16))
        handler.server.sent = getattr(handler.server, "sent", 0) + (1 << 16)


def respond_large(handler: Any) -> None:
    handler.send_response(200)
    handler.send_header("Content-Length", str(10**15))
    handler.end_headers()


def respond_slowly(handler: Any) -> None:
    handler.send_response(200)
    handler.end_headers()
    while not handler.server.stopped.wait(0.2):
        handler.wfile.write(b"x")


def respond_slow_headers(handler: Any) -> None:
    handler.wfile.write(b"HTTP/1.0 200 OK\r\nX-Header: ")
    while not handler.server.stopped.wait(0.2):
        handler.wfile.write(b"x")


def respond_continue(handler: Any) -> None:
    while not handler.server.stopped.wait(0.2):
        handler.wfile.write(b"HTTP/1.1 100 Continue\r\n\r\n")


def respond_silently(handler: Any) -> None:
    handler.send_response(200)
    handler.send_header("Content-Length", "100")
    handler.end_headers()
    handler.wfile.write(b"x" * 50)
    handler.server.stopped.wait(60)


def respond_incomplete(handler: Any) -> None:
    handler.send_response(200)
    handler.send_header("Content-Length", "100")
    handler.end_headers()
    handler.wfile.write(b"x" * 50)


def respond_nonsense_length(handler: Any) -> None:
    handler.send_response(200)
    handler.send_header("Content-Length", "many")
    handler.end_headers()


def respond_long_header(handler: Any) -> None:
    handler.send_response(200)
    handler.send_header("X-Header", "x" * 1_000_000)
    handler.end_headers()


def respond_many_headers(handler: Any) -> None:
    handler.send_response(200)
    for number in range(1000):
        handler.send_header(f"X-Header-{number}", "x")
    handler.end_headers()


def respond_error(handler: Any) -> None:
    handler.send_response(503, "Service\tUnavailable")
    handler.end_headers()


def respond_redirect_to_itself(handler: Any) -> None:
    handler.send_response(302)
    handler.send_header("Location", handler.path)
    handler.end_headers()


ATTACKS = [
    (respond_endless, "file is larger than 2,000 bytes"),
    (respond_large, "file is larger than 2,000 bytes"),
    (respond_slowly, "not complete after 3 s"),
    (respond_slow_headers, "no answer in 1 s"),
    (respond_continue, "no answer in 1 s"),
    (respond_silently, "no answer in 1 s|timed out"),
    (respond_incomplete, "file is incomplete"),
    (respond_nonsense_length, "many"),
    (respond_long_header, "more than 65536 bytes"),
    (respond_many_headers, "more than 100 headers"),
    (respond_error, "Service Unavailable"),
    (respond_redirect_to_itself, "redirect"),
]


@pytest.mark.parametrize(("respond", "message"), ATTACKS)
def test_attacks(respond: Callable[[Any], None], message: str, mirror: Mirror) -> None:
    mirror.server.stopped = mirror.closed  # type: ignore[attr-defined]
    mirror.respond = respond
    with pytest.raises(SourceError, match=message) as raised:
        fetch(f"{mirror.url}file", 2000)
    assert "\n" not in str(raised.value)
    assert getattr(mirror.server, "sent", 0) < 50_000_000


def test_a_body_that_is_longer_than_its_length(mirror: Mirror) -> None:
    """What comes after it is not read."""

    def respond(handler: Any) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", "10")
        handler.end_headers()
        handler.wfile.write(b"x" * 1000)

    mirror.respond = respond
    assert fetch(f"{mirror.url}file", 2000) == b"x" * 10


@pytest.fixture
def insecure() -> Iterator[tuple[str, list[str]]]:
    """A server without encryption: its address, and the requests that it gets."""
    requests: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            requests.append(self.path)
            self.send_response(200)
            self.end_headers()

        def log_message(self, *args: Any) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/", requests
    server.shutdown()
    server.server_close()


def redirect_to(location: str) -> Callable[[Any], None]:
    def respond(handler: Any) -> None:
        if handler.path == "/file":
            handler.send_response(302)
            handler.send_header("Location", location)
        else:
            handler.send_response(200)
        handler.end_headers()
        handler.wfile.write(b"content")

    return respond


def test_redirects(mirror: Mirror, insecure: tuple[str, list[str]], tmp_path: Path) -> None:
    """Only to another https address."""
    mirror.respond = redirect_to("/elsewhere")
    assert fetch(f"{mirror.url}file", 2000) == b"content"
    (tmp_path / "secret").write_text("secret")
    address, requests = insecure
    for location in (address, f"file://{tmp_path}/secret", "ftp://127.0.0.1/file", "data:,text"):
        mirror.respond = redirect_to(location)
        with pytest.raises(
            SourceError, match=r"redirected to an address that is not https|Redirection to url .* is not allowed"
        ):
            fetch(f"{mirror.url}file", 2000)
    assert requests == []


def test_only_https(insecure: tuple[str, list[str]], tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("secret")
    address, requests = insecure
    for url in (f"{address}file", f"file://{tmp_path}/secret"):
        with pytest.raises(SourceError, match="unknown url type"):
            fetch(url, 2000)
    assert requests == []


def test_a_certificate_that_nobody_has_signed(mirror: Mirror, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SSL_CERT_FILE")
    with pytest.raises(SourceError, match="CERTIFICATE_VERIFY_FAILED"):
        fetch(f"{mirror.url}file", 2000)
    assert mirror.requests == []


def test_a_name_server_that_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """A DNS lookup has no timeout, and is abandoned."""
    answered = threading.Event()
    look_up = socket.getaddrinfo

    def silent(host: Any, *args: Any, **kwargs: Any) -> Any:
        if host == "slow.invalid":
            answered.wait(60)
        return look_up(host, *args, **kwargs)

    monkeypatch.setattr(socket, "getaddrinfo", silent)
    try:
        with pytest.raises(SourceError, match="no answer in 1 s"):
            fetch("https://slow.invalid/file", 2000)
    finally:
        answered.set()


def test_a_silent_host() -> None:
    """A server that accepts the connection and never answers."""
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        with pytest.raises(SourceError, match=r"no answer in 1 s|timed out"):
            fetch(f"https://127.0.0.1:{silent.getsockname()[1]}/file", 2000)


def test_through_the_users_proxy(mirror: Mirror, monkeypatch: pytest.MonkeyPatch) -> None:
    """A proxy for https is asked to connect to the mirror, and sees nothing else."""
    asked = []

    class Proxy(http.server.BaseHTTPRequestHandler):
        def do_CONNECT(self) -> None:
            asked.append(self.path)
            self.send_error(502)

        def log_message(self, *args: Any) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Proxy) as proxy:
        threading.Thread(target=proxy.serve_forever, daemon=True).start()
        monkeypatch.setenv("https_proxy", f"http://127.0.0.1:{proxy.server_port}")
        monkeypatch.delenv("no_proxy")
        with pytest.raises(SourceError, match="502"):
            fetch(f"{mirror.url}file", 2000)
        proxy.shutdown()
    assert asked == [mirror.url.removeprefix("https://").rstrip("/")]
    assert mirror.requests == []
