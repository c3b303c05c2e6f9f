"""A mirror on this machine: a real https server, with a certificate of its own authority."""

import gzip
import http.server
import ssl
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import trustme

from labml_bn.data.download import CHECKSUMS


class Mirror:
    """An HTTPS server on this machine.

    `answer` gives the bytes for a path, and may damage them; `respond`, if it is set, writes the whole response.
    """

    def __init__(self, authority: trustme.CA) -> None:
        self.requests: list[str] = []
        self.answer: Callable[[str], bytes] = lambda path: b""
        self.respond: Callable[[Any], None] | None = None
        self.status = 200
        self.claim_more = 0
        self.closed = threading.Event()
        mirror = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                mirror.requests.append(self.path)
                if mirror.respond is not None:
                    mirror.respond(self)
                    return
                content = mirror.answer(self.path[1:])
                self.send_response(mirror.status)
                self.send_header("Content-Length", str(len(content) + mirror.claim_more))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *args: Any) -> None:
                pass

        class Server(http.server.ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *args: Any) -> None:
                pass  # a client that went away

        self.server = Server(("127.0.0.1", 0), Handler)
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        authority.issue_cert("127.0.0.1").configure_cert(context)
        # The handshake is made in the thread of the connection.
        self.server.socket = context.wrap_socket(self.server.socket, server_side=True, do_handshake_on_connect=False)
        self.url = f"https://127.0.0.1:{self.server.server_port}/"
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()

    def close(self) -> None:
        self.closed.set()
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture(scope="session")
def archives(data_path: Path) -> dict[str, bytes]:
    """The real files as a mirror serves them."""
    raw = data_path / "MNIST" / "raw"
    return {f"{file}.gz": gzip.compress((raw / file).read_bytes(), compresslevel=1) for file in CHECKSUMS["MNIST"]}


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> tuple[trustme.CA, Path]:
    """A certificate authority, and the file of its certificate."""
    authority = trustme.CA()
    path = tmp_path_factory.mktemp("authority") / "certificate.pem"
    authority.cert_pem.write_to_path(str(path))
    return authority, path


@pytest.fixture
def mirror(
    authority: tuple[trustme.CA, Path], archives: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Mirror]:
    """A mirror with the real files, trusted by this process and those that it starts."""
    monkeypatch.setenv("SSL_CERT_FILE", str(authority[1]))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    mirror = Mirror(authority[0])
    mirror.answer = archives.__getitem__
    yield mirror
    mirror.close()
