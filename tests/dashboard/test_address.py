"""Training finds the dashboard's address, and is not delayed if there is no dashboard or it does not respond."""

import http.server
import socket
import threading
from pathlib import Path

import pytest

from labml_bn.dashboard import address
from tests.conftest import Run


def test_no_dashboard(tmp_path: Path) -> None:
    assert address.find(tmp_path) is None


@pytest.mark.parametrize(
    "content",
    ["http://127.0.0.1:1 token", "http://127.0.0.1:1", "nonsense token", "http://127.0.0.1:99999 token", "", "\0"],
)
def test_a_stale_or_damaged_file_is_ignored(tmp_path: Path, content: str) -> None:
    (tmp_path / "dashboard.address").write_text(content)
    assert address.find(tmp_path) is None


def test_announced_while_it_runs(tmp_path: Path) -> None:
    class Handler(http.server.BaseHTTPRequestHandler):
        token = "ours"

        def do_HEAD(self) -> None:
            self.send_response(200)
            self.send_header(address.TOKEN_HEADER, self.token)
            self.end_headers()

        def log_message(self, *arguments: object) -> None:
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}"
        with address.announced(tmp_path, url, "ours"):
            assert address.find(tmp_path) == url
            Handler.token = "another's"  # another dashboard, at the same port
            assert address.find(tmp_path) is None
        assert list(tmp_path.iterdir()) == []
        server.shutdown()


def test_the_address_of_another_dashboard_is_kept(tmp_path: Path) -> None:
    with address.announced(tmp_path, "http://127.0.0.1:1", "ours"):
        (tmp_path / "dashboard.address").write_text("http://127.0.0.1:2 another's")
    assert (tmp_path / "dashboard.address").read_text() == "http://127.0.0.1:2 another's"


def test_the_search_times_out(tmp_path: Path) -> None:
    """A server that accepts connections and never responds delays training by less than a second."""
    with socket.socket() as hanging:
        hanging.bind(("127.0.0.1", 0))
        hanging.listen()
        (tmp_path / "dashboard.address").write_text(f"http://127.0.0.1:{hanging.getsockname()[1]} token")
        found: list[str | None] = []
        search = threading.Thread(target=lambda: found.append(address.find(tmp_path)), daemon=True)
        search.start()
        search.join(timeout=10)
        assert found == [None]
    assert address._TIMEOUT < 1


def test_training_continues_if_the_dashboard_hangs(work: Path, train: Run, data_path: Path) -> None:
    with socket.socket() as hanging:
        hanging.bind(("127.0.0.1", 0))
        hanging.listen()
        (work / "logs").mkdir()
        (work / "logs" / "dashboard.address").write_text(f"http://127.0.0.1:{hanging.getsockname()[1]} token")
        done = train(
            "epochs=1", "train_samples=500", "valid_samples=100", "device.use_cuda=false", f"data_path={data_path}"
        )
    assert done.returncode == 0, done.stderr
    assert "Watch it" not in done.stdout
    assert "Final accuracy" in done.stdout
