"""Connections without a request are closed after some seconds, and do not keep others out."""

import contextlib
import resource
import socket

import pytest

from labml_bn.dashboard import protocol
from tests.dashboard.conftest import Dashboard, Start, wait_until

pytestmark = pytest.mark.slow


def connect(dashboard: Dashboard) -> socket.socket:
    return socket.create_connection(("127.0.0.1", dashboard.port), timeout=4 * protocol.SECONDS)


def wait_for_the_end(client: socket.socket) -> bytes:
    """What is received until the connection is closed. Raises TimeoutError if it is not."""
    received = b""
    with contextlib.suppress(ConnectionResetError):
        while more := client.recv(65536):
            received += more
    return received


def test_half_a_head(start: Start) -> None:
    """On a new connection, and after a request on it; also if it arrives bit by bit, or as the rest of a body."""
    with start() as dashboard:
        host = f"Host: 127.0.0.1:{dashboard.port}\r\nAuthorization: token {dashboard.token}\r\n"
        request = f"GET /404 HTTP/1.1\r\n{host}\r\n".encode()
        with contextlib.ExitStack() as stack:
            new, half, kept, several, dripping = (stack.enter_context(connect(dashboard)) for _ in range(5))
            half.sendall(b"GET / HTTP/1.1\r\nHo")
            kept.sendall(request + b"GET / HT")
            several.sendall(request * 3)  # at once, before the first is answered
            dripping.sendall(b"GET / HTTP/1.1\r\n")

            def is_closed() -> bool:
                try:
                    dripping.sendall(b"X: 1\r\n")
                except OSError:  # reset, or a broken pipe
                    return True
                return False

            wait_until(is_closed, 4 * protocol.SECONDS)
            assert wait_for_the_end(new) == b""
            assert wait_for_the_end(half) == b""
            assert wait_for_the_end(kept).startswith(b"HTTP/1.1 200 OK")
            assert wait_for_the_end(several).count(b"HTTP/1.1 200 OK") == 3


def test_thousands_of_connections(start: Start) -> None:
    """Others are served, while more connections are opened than the process can have files."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 8192), hard))
    try:
        with start(most_files=400) as dashboard, contextlib.ExitStack() as stack:
            for number in range(3000):
                client = socket.socket()
                client.setblocking(False)
                client.connect_ex(("127.0.0.1", dashboard.port))
                stack.enter_context(client)
                if number % 500 == 499:
                    assert dashboard.runs() == []
            dashboard.process.terminate()
            assert dashboard.process.communicate(timeout=20) == ("", "interrupted\n")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_client_that_does_not_read_does_not_keep_the_dashboard_from_ending(start: Start) -> None:
    with start() as dashboard, connect(dashboard) as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1024)
        head = f"Host: 127.0.0.1:{dashboard.port}\r\nAuthorization: token {dashboard.token}\r\n"
        client.sendall(f"GET /js/bundle.min.js HTTP/1.1\r\n{head}\r\n".encode() * 100)
        client.recv(100)
        dashboard.process.terminate()
        assert dashboard.process.communicate(timeout=20) == ("", "interrupted\n")
