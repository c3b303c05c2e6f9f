"""What the dashboard answers, and to whom; how it starts and ends."""

import shutil
import signal
import socket
import sqlite3
import subprocess
from pathlib import Path

import pytest

from tests.conftest import Run
from tests.dashboard.conftest import Start

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


def test_who_is_answered(trained: Path, work: Path, start: Start) -> None:
    """One server for all of it: a start takes seconds."""
    shutil.copytree(trained, work / "logs" / "batch_norm" / trained.name)
    with start() as dashboard:
        # Files of its own, and the page for every address that the page itself makes.
        for path in ("/", "/runs", f"/run/{trained.name}", f"/run/{trained.name}/metrics", "/settings", "/404"):
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

        # Other names for this machine, as a page would use that rebinds its own name to it.
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

        # Pages of other origins: they can neither read nor change anything.
        change = ("POST", f"/api/v1/run/{trained.name}", '{"name": "changed"}')
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

        # Errors say nothing of the inside; the next request finds all as it was.
        for method, path, sent in (
            ("POST", "/api/v1/run/no-such-run", '{"name": "x"}'),
            ("POST", f"/api/v1/metrics/{trained.name}", "not json"),
            ("POST", f"/api/v1/metrics/preferences/{trained.name}", "{}"),
        ):
            status, headers, body = dashboard.request(method, path, sent)
            assert status == 500
            assert not any(word in body for word in (b"Traceback", b"File", b".py", b"labml_app"))
            assert headers["content-security-policy"]
        # Runs come from the folder alone.
        assert dashboard.request("POST", "/api/v1/default/track?run_uuid=0123456789&labml_version=0.5", "[]")[0] in {
            404,
            405,
        }
        assert len(dashboard.runs()) == 1

        # Nobody but this machine can reach it.
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


def test_stored_pickles_cannot_run_code(trained: Path, work: Path, start: Start) -> None:
    shutil.copytree(trained, work / "logs" / "batch_norm" / trained.name)
    with start() as dashboard:
        assert len(dashboard.runs()) == 1
        evil = f"cos\nsystem\n(S'touch {work}/evil'\ntR.".encode()
        with sqlite3.connect(work / "logs" / "dashboard.sqlite") as database:
            database.execute("UPDATE models SET data = ? WHERE model = 'Run'", (evil,))
        assert dashboard.request("GET", f"/api/v1/run/{trained.name}")[0] == 500
        assert not (work / "evil").exists()


def test_a_damaged_store_is_said(trained: Path, work: Path, start: Start, command: Run) -> None:
    shutil.copytree(trained, work / "logs" / "batch_norm" / trained.name)
    assert command("dashboard", "--sync").returncode == 0
    file = work / "logs" / "dashboard.sqlite"
    with sqlite3.connect(file) as database:
        database.execute("UPDATE models SET data = x'00'")
    database.close()
    for _ in range(2):
        done = command("dashboard", "--sync")
        assert (done.returncode, len(done.stderr.splitlines())) == (1, 1)
        assert "dashboard.sqlite" in done.stderr
        assert "delete it: it is made anew" in done.stderr
        file.write_bytes(b"no database at all, but of some length" * 100)
    for other in work.glob("logs/dashboard.sqlite*"):
        other.unlink()
    assert command("dashboard", "--sync").stdout == "runs brought in from logs: 1\n"


def test_ended_by_the_system(work: Path, start: Start) -> None:
    with start() as dashboard:
        assert (work / "logs" / "dashboard.address").read_text().startswith(dashboard.url)
        dashboard.process.terminate()
        _, errors = dashboard.process.communicate(timeout=20)
        assert (dashboard.process.returncode, errors) == (143, "interrupted\n")
        assert not (work / "logs" / "dashboard.address").exists()


def test_before_there_are_runs(work: Path, start: Start) -> None:
    with start() as dashboard:
        assert dashboard.runs() == []
    assert (work / "logs").is_dir()


def test_beside_a_repository_without_commits(work: Path, start: Start) -> None:
    subprocess.run(["git", "init", "-q", str(work)], check=True)
    with start() as dashboard:
        assert dashboard.runs() == []


def test_a_taken_port(command: Run) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = str(other.getsockname()[1])
        done = command("dashboard", "--no-browser", "--port", port)
    assert done.returncode == 1
    assert done.stderr == f"error: cannot open port {port}: Address already in use; choose another with --port\n"


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["--port", "99999"], 1, "cannot open port 99999"),
        (["--port", "http"], 2, "invalid int value: 'http'"),
        (["--no-browser", "--logs", "file"], 1, "cannot make the folder"),
        (["somewhere"], 2, "unrecognized arguments: somewhere"),
    ],
)
def test_wrong_use(work: Path, command: Run, arguments: list[str], status: int, message: str) -> None:
    (work / "file").touch()
    done = command("dashboard", *arguments)
    assert (done.returncode, len(done.stderr.splitlines())) == (status, 1)
    assert message in done.stderr


def test_a_mongodb_that_is_not_there(work: Path, start: Start, environment: dict[str, str], command: Run) -> None:
    environment["MONGO_HOST"] = "mongodb://127.0.0.1:1/?serverSelectionTimeoutMS=300"
    done = command("dashboard", "--sync")
    assert done.returncode == 1
    assert done.stderr.startswith("error: MONGO_HOST=mongodb://127.0.0.1:1/")
    assert len(done.stderr.splitlines()) == 1
    assert not (work / "logs" / "dashboard.sqlite").exists()
