"""Which requests the dashboard answers, and how it ends."""

import signal
import socket
from pathlib import Path

import pytest

from tests.dashboard.conftest import Start

#: Paths of files that must not be served.
OUTSIDE = [
    "/../../etc/passwd",
    "/../../../../../../../../etc/passwd",
    "/%2e%2e/%2e%2e/%2e%2e/%2e%2e/%2e%2e/%2e%2e/%2e%2e/etc/passwd",
    "/..%2f..%2f..%2f..%2f..%2f..%2f..%2f..%2fetc%2fpasswd",
    "/run/../../../../../../../../etc/passwd",
    "/js/../../handlers.py",
    "/assets/../../../../etc/passwd",
    "//etc/passwd",
    "/etc/passwd",
    "/logs/dashboard.sqlite",
    "/..\\..\\handlers.py",
]


def test_only_its_own_page_is_answered(run: Path, work: Path, start: Start) -> None:
    """One test with one server, because the start takes seconds."""
    with start() as dashboard:
        # The page, for every path that it uses, and its files.
        for path in ("/", "/runs", f"/run/{run.name}", f"/run/{run.name}/metrics", "/settings", "/404"):
            status, headers, body = dashboard.request("GET", path)
            assert (status, headers["content-type"]) == (200, "text/html; charset=utf-8")
            assert b"bundle.min.js" in body
            assert b"https://" not in body
            assert headers["content-security-policy"].startswith("default-src 'self'")
            assert "access-control-allow-origin" not in headers
        assert dashboard.request("GET", "/js/bundle.min.js")[0] == 200
        assert dashboard.request("HEAD", "/")[::2] == (200, b"")

        for path in OUTSIDE:
            status, _, body = dashboard.request("GET", path)
            assert status == 404, path
            assert body == b"not found"
        for path in ("/docs", "/openapi.json", "/index.html", "/nonsense"):
            assert dashboard.request("GET", path)[0] == 404

        # Other names of this machine, as in DNS rebinding.
        own = f"127.0.0.1:{dashboard.port}"
        for host in (
            "evil.example",
            f"evil.example:{dashboard.port}",
            "127.0.0.1",
            f"127.0.0.1:{dashboard.port + 1}",
            "",
        ):
            assert dashboard.request("GET", "/api/v1/runs/null", headers={"Host": host})[0] == 403, host
        assert dashboard.request("GET", "/runs", headers={"Host": f"localhost:{dashboard.port}"})[0] == 200

        # Pages of other origins can neither read nor change anything.
        change = ("POST", f"/api/v1/run/{run.name}", '{"name": "changed"}')
        for origin in ("https://app.labml.ai", "http://evil.example", "null", f"http://127.0.0.1:{dashboard.port + 1}"):
            status, headers, _ = dashboard.request("GET", "/api/v1/runs/null", headers={"Origin": origin})
            assert (status, "access-control-allow-origin" in headers) == (403, False)
            assert dashboard.request(*change, {"Origin": origin})[0] == 403
            preflight = {"Origin": origin, "Access-Control-Request-Method": "PUT"}
            assert dashboard.request("OPTIONS", "/api/v1/runs", headers=preflight)[0] == 403
        assert dashboard.request(*change, {"Sec-Fetch-Site": "cross-site"})[0] == 403
        assert dashboard.runs()[0]["name"].startswith("batch_norm")
        assert dashboard.request(*change, {"Origin": f"http://{own}", "Sec-Fetch-Site": "same-origin"})[0] == 200
        assert dashboard.runs()[0]["name"] == "changed"

        # A response to a malformed request has no internal details.
        for method, path, sent in (
            ("POST", f"/api/v1/metrics/{run.name}", "not json"),
            ("POST", f"/api/v1/metrics/preferences/{run.name}", "{}"),
        ):
            status, headers, body = dashboard.request(method, path, sent)
            assert status == 400
            assert body.startswith(b'{"error":"malformed request: ')
            assert not any(word in body for word in (b"Traceback", b"File", b".py", b"labml_app"))
            assert headers["content-security-policy"]
        # Runs cannot be sent over the network.
        assert dashboard.request("POST", "/api/v1/default/track?run_uuid=0123456789&labml_version=0.5", "[]")[0] in {
            404,
            405,
        }
        assert len(dashboard.runs()) == 1

        # Other machines cannot reach it.
        for _, _, _, _, address in socket.getaddrinfo(socket.gethostname(), dashboard.port, socket.AF_INET):
            if not str(address[0]).startswith("127."):
                with socket.socket() as client:
                    client.settimeout(2)
                    assert client.connect_ex(address) != 0

        dashboard.process.send_signal(signal.SIGINT)
        _, errors = dashboard.process.communicate(timeout=20)
        assert dashboard.process.returncode == 130
        assert errors.splitlines()[-1] == "interrupted"
        assert "Traceback" not in errors
        assert not (work / "logs" / "dashboard.address").exists()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_it(work: Path, start: Start, number: int) -> None:
    """SIGHUP is sent when its terminal is closed."""
    with start() as dashboard:
        assert (work / "logs" / "dashboard.address").read_text() == f"{dashboard.printed}\n"
        dashboard.process.send_signal(number)
        _, errors = dashboard.process.communicate(timeout=20)
        assert (dashboard.process.returncode, errors) == (143, "interrupted\n")
        assert not (work / "logs" / "dashboard.address").exists()


def test_nohup(start: Start) -> None:
    with start(nohup=True) as dashboard:
        dashboard.process.send_signal(signal.SIGHUP)
        assert dashboard.runs() == []
        dashboard.process.terminate()
        assert dashboard.process.wait(timeout=20) == 143
