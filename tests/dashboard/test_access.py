"""Only who has the token is let in, and only with requests of a reasonable size and in a reasonable time."""

import asyncio
import html
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from fastapi import Request, Response

from labml_bn.dashboard.access import Guard
from labml_bn.dashboard.address import Address
from tests.dashboard.conftest import Dashboard, Start

#: What a client of another user tries: paths, and whether they are refused. It prints the statuses.
CLIENT = """
import http.client, sys
for path in sys.argv[2:]:
    connection = http.client.HTTPConnection("127.0.0.1", int(sys.argv[1]), timeout=20)
    connection.request(*path.split(" "))
    print(connection.getresponse().status)
"""

REQUESTS = [
    ("GET", "/"),
    ("HEAD", "/"),
    ("GET", "/runs"),
    ("GET", "/js/bundle.min.js"),
    ("GET", "/assets/page.js"),
    ("GET", "/api/v1/runs/null"),
    ("GET", "/nonsense"),
    ("PUT", "/api/v1/runs"),
    ("POST", "/api/v1/auth/user"),
    ("GET", "/?token="),
    ("GET", "/?token=wrong"),
    ("POST", "/?token={token}"),
]


def cookie(dashboard: Dashboard, path: str = "/") -> str:
    """The cookie that the printed address gives."""
    separator = "&" if "?" in path else "?"
    status, headers, body = dashboard.request("GET", f"{path}{separator}token={dashboard.token}", with_token=False)
    assert status == 200
    assert f'content="0;url={html.escape(dashboard.url + path)}"'.encode() in body
    assert dashboard.token.encode() not in body
    content, *attributes = headers["set-cookie"].split("; ")
    assert {attribute.lower() for attribute in attributes} == {"httponly", "path=/", "samesite=strict"}
    assert content.startswith(f"labml-bn-{dashboard.port}=")
    return content


def test_nobody_is_let_in_without_the_token(run: Path, start: Start) -> None:
    with start() as dashboard:
        sent = {"Cookie": cookie(dashboard)}
        wrong = [
            {},
            {"Cookie": sent["Cookie"][:-1]},
            {"Cookie": sent["Cookie"] + "x"},
            {"Cookie": f"labml-bn-1={dashboard.token}"},
            {"Authorization": f"Bearer {dashboard.token}"},
            {"Authorization": "token \xff"},
            {"Authorization": '{"token": "local"}'},
        ]
        for method, path in REQUESTS:
            for headers in wrong:
                status, answered, body = dashboard.request(
                    method, path.format(token=dashboard.token), headers=headers, with_token=False
                )
                assert status == 403, (method, path, headers)
                assert method == "HEAD" or b"open the address that the dashboard printed" in body
                assert dashboard.token not in str(answered) + str(body)
                assert "set-cookie" not in answered
        assert dashboard.request("GET", "/api/v1/runs/null", headers=sent, with_token=False)[0] == 200
        assert dashboard.request("GET", "/js/bundle.min.js", headers=sent, with_token=False)[0] == 200
        for path in ("/runs", "/run/a?b=c&d=e", "//elsewhere.example/", "/%2f%0d%0aX:1"):
            cookie(dashboard, path)


def test_every_start_has_another_token(work: Path, start: Start) -> None:
    with start() as one, start() as other:
        assert one.token != other.token
        assert len(one.token) >= 43
        assert dashboard_status(other, one.token) == 403


def dashboard_status(dashboard: Dashboard, token: str) -> int:
    headers = {"Authorization": f"token {token}"}
    return dashboard.request("GET", "/", headers=headers, with_token=False)[0]


@pytest.mark.skipif(os.geteuid() != 0 or not Path("/usr/bin/python3").exists(), reason="needs another user")
def test_another_user_is_not_let_in(run: Path, work: Path, start: Start) -> None:
    with start() as dashboard:
        tried = [" ".join(request) for request in REQUESTS[:-1]]
        client = ["/usr/bin/python3", "-I", "-c", CLIENT, str(dashboard.port), *tried]
        done = subprocess.run(client, user=65534, cwd="/", capture_output=True, text=True, check=True, timeout=60)
        assert done.stdout.split() == ["403"] * len(tried)
        for file in ("dashboard.address", "dashboard.html"):
            assert (work / "logs" / file).stat().st_mode & 0o777 == 0o600
        assert len(dashboard.runs()) == 1


def raw(dashboard: Dashboard, head: str, body: bytes = b"", seconds: float = 30) -> bytes:
    """What is received until the dashboard closes the connection."""
    with socket.create_connection(("127.0.0.1", dashboard.port), timeout=seconds) as client:
        client.sendall(f"{head}\r\nHost: 127.0.0.1:{dashboard.port}\r\n".encode() + b"\r\n" + body)
        received = b""
        while more := client.recv(65536):
            received += more
        return received


def test_large_and_endless_bodies(run: Path, start: Start) -> None:
    """They are refused before they are read, and the connection is closed, also if they belong to no API."""
    with start() as dashboard:
        known = f"\r\nAuthorization: token {dashboard.token}"
        for path in (f"/api/v1/run/{run.name}", "/"):
            for method in ("POST", "GET"):
                head = f"{method} {path} HTTP/1.1{known}"
                assert raw(dashboard, f"{head}\r\nContent-Length: 1000001").startswith(b"HTTP/1.1 413 ")
                assert raw(dashboard, f"{head}\r\nContent-Length: 6900000000").startswith(b"HTTP/1.1 413 ")
                assert raw(dashboard, f"{head}\r\nTransfer-Encoding: chunked", b"5\r\nhello\r\n").startswith(
                    b"HTTP/1.1 411 "
                )
        # Without the token, no more than the head is read.
        head = f"POST /api/v1/run/{run.name} HTTP/1.1\r\nContent-Length: 1000"
        assert raw(dashboard, head).startswith(b"HTTP/1.1 403 ")
        largest = json.dumps({"note": "x" * 999_988})
        assert len(largest) == 1_000_000
        dashboard.post(f"run/{run.name}", json.loads(largest))
        assert dashboard.request("POST", f"/api/v1/run/{run.name}", largest + " ")[0] == 413
        assert raw(dashboard, f"GET / HTTP/1.1{known}\r\nContent-Length: {'9' * 5000}").startswith(b"HTTP/1.1 4")
        dashboard.process.terminate()
        assert dashboard.process.communicate(timeout=20) == ("", "interrupted\n")


@pytest.mark.slow
def test_a_body_that_does_not_arrive(run: Path, start: Start) -> None:
    """Others are answered meanwhile, and clients that go away are no errors."""
    with start() as dashboard:
        head = f"POST /api/v1/run/{run.name} HTTP/1.1\r\nAuthorization: token {dashboard.token}\r\nContent-Length: 99"
        with socket.create_connection(("127.0.0.1", dashboard.port)) as client:
            client.sendall(f"{head}\r\nHost: 127.0.0.1:{dashboard.port}\r\n\r\nhalf".encode())
            assert len(dashboard.runs()) == 1
        assert raw(dashboard, head, b"half").startswith(b"HTTP/1.1 408 ")
        assert len(dashboard.runs()) == 1
        dashboard.process.terminate()
        assert dashboard.process.communicate(timeout=20) == ("", "interrupted\n")


def test_the_headers_of_every_response(run: Path, start: Start) -> None:
    with start() as dashboard:
        for path, with_token in (("/", True), ("/js/bundle.min.js", True), ("/api/v1/runs/null", True), ("/", False)):
            _, headers, _ = dashboard.request("GET", path, with_token=with_token)
            assert headers["x-frame-options"] == "DENY"
            assert headers["cross-origin-resource-policy"] == "same-origin"
            assert headers["cross-origin-opener-policy"] == "same-origin"
            assert headers["cache-control"] == "no-store"
            assert headers["x-content-type-options"] == "nosniff"
            assert headers["referrer-policy"] == "no-referrer"


def test_the_address_that_training_prints(run: Path, work: Path, start: Start) -> None:
    """With the token only on a terminal: redirected output often has other readers."""
    code = """
import sys
from pathlib import Path
from labml_bn.dashboard import address
found = address.find(Path("logs").resolve())
print(found.page("run/x", secret=sys.stdout.isatty()))
"""
    with start() as dashboard:
        done = subprocess.run([sys.executable, "-c", code], cwd=work, capture_output=True, text=True, check=True)
        assert done.stdout == f"{dashboard.url}/run/x\n"
        main, other = os.openpty()
        subprocess.run([sys.executable, "-c", code], cwd=work, stdout=other, check=True)
        os.close(other)
        assert os.read(main, 1000).decode().strip() == f"{dashboard.url}/run/x?token={dashboard.token}"
        os.close(main)
        cookie(dashboard, "/run/x")


def test_an_error_has_no_internal_details(capsys: pytest.CaptureFixture[str]) -> None:
    async def failing(_: Request) -> Response:
        raise RuntimeError("the reason\x1b")

    async def receive() -> dict[str, object]:
        return {"type": "http.request", "body": b"", "more_body": False}

    headers = [(b"host", b"127.0.0.1:1"), (b"authorization", b"token ours")]
    scope = {"type": "http", "method": "GET", "path": "/", "query_string": b"", "headers": headers}
    response = asyncio.run(Guard(Address(1, "ours"), "dashboard")(Request(scope, receive), failing))
    assert response.status_code == 500
    assert response.body == b'{"error":"internal error; the reason is on the dashboard\'s terminal"}'
    assert capsys.readouterr().err == "GET / failed: RuntimeError('the reason\\x1b')\n"
