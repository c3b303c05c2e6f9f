"""Whether a training finds its dashboard, and that it goes on without one."""

import http.server
import socket
import threading
from pathlib import Path

import pytest

from labml_bn import dashboard_address
from tests.conftest import Run


def test_there_is_none(tmp_path: Path) -> None:
    assert dashboard_address.find(tmp_path) is None


@pytest.mark.parametrize(
    "left",
    ["http://127.0.0.1:1 token", "http://127.0.0.1:1", "nonsense token", "http://127.0.0.1:99999 token", "", "\0"],
)
def test_an_address_that_was_left_behind(tmp_path: Path, left: str) -> None:
    (tmp_path / "dashboard.address").write_text(left)
    assert dashboard_address.find(tmp_path) is None


def test_announced_for_as_long_as_it_runs(tmp_path: Path) -> None:
    class Handler(http.server.BaseHTTPRequestHandler):
        token = "ours"

        def do_HEAD(self) -> None:
            self.send_response(200)
            self.send_header(dashboard_address.TOKEN_HEADER, self.token)
            self.end_headers()

        def log_message(self, *arguments: object) -> None:
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}"
        with dashboard_address.announced(tmp_path, url, "ours"):
            assert dashboard_address.find(tmp_path) == url
            Handler.token = "another's"  # over another folder, at the same port
            assert dashboard_address.find(tmp_path) is None
        assert list(tmp_path.iterdir()) == []
        server.shutdown()


def test_another_dashboards_address_is_left(tmp_path: Path) -> None:
    with dashboard_address.announced(tmp_path, "http://127.0.0.1:1", "ours"):
        (tmp_path / "dashboard.address").write_text("http://127.0.0.1:2 another's")
    assert (tmp_path / "dashboard.address").read_text() == "http://127.0.0.1:2 another's"


def test_a_silent_one_is_not_waited_for(tmp_path: Path) -> None:
    """It takes connections and never answers. What a training would wait is less than the second it may take."""
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        (tmp_path / "dashboard.address").write_text(f"http://127.0.0.1:{silent.getsockname()[1]} token")
        answers: list[str | None] = []
        asking = threading.Thread(target=lambda: answers.append(dashboard_address.find(tmp_path)), daemon=True)
        asking.start()
        asking.join(timeout=10)
        assert answers == [None]
    assert dashboard_address._PATIENCE < 1


def test_training_does_not_wait_for_one_that_is_silent(work: Path, train: Run, data_path: Path) -> None:
    """It takes connections and never answers, as a server does that hangs."""
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        (work / "logs").mkdir()
        (work / "logs" / "dashboard.address").write_text(f"http://127.0.0.1:{silent.getsockname()[1]} token")
        done = train(
            "epochs=1", "train_samples=500", "valid_samples=100", "device.use_cuda=false", f"data_path={data_path}"
        )
    assert done.returncode == 0, done.stderr
    assert "Watch it" not in done.stdout
    assert "Final accuracy" in done.stdout
