"""Training finds the dashboard's address, and is neither delayed nor deceived by what is there instead."""

import contextlib
import http.server
import os
import re
import socket
import stat
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from labml_bn.dashboard import address
from labml_bn.dashboard.address import Address, forwarding
from tests.conftest import Run

TOKEN = "a-token_of-43-characters-as-secrets-makes-it"


def test_no_dashboard(tmp_path: Path) -> None:
    assert address.find(tmp_path) is None


def write(file: Path, content: str) -> None:
    file.write_text(content)
    file.chmod(0o600)


@pytest.mark.parametrize(
    "content",
    [
        f"http://127.0.0.1:1/?token={TOKEN}\n",
        f"http://127.0.0.1:99999/?token={TOKEN}\n",
        f"http://127.0.0.1:0/?token={TOKEN}\n",
        "http://127.0.0.1:1 token",
        "nonsense",
        "",
        "\0",
    ],
)
def test_a_stale_or_damaged_file_is_ignored(tmp_path: Path, content: str) -> None:
    write(tmp_path / "dashboard.address", content)
    assert address.find(tmp_path) is None


class Server(http.server.HTTPServer):
    """Answers as the dashboard at `known` would, and keeps what it receives."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.known = Address(self.server_port, TOKEN)
        self.received = ""


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def do_HEAD(self) -> None:
        self.server.received += self.requestline + str(self.headers)
        self.send_response(403)
        self.send_header(address.PROOF_HEADER, str(self.server.known.proof(self.headers[address.CHALLENGE_HEADER])))
        self.end_headers()

    def log_message(self, *arguments: object) -> None:
        pass


def test_announced_while_it_runs(tmp_path: Path) -> None:
    with Server() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        announced = server.known
        with address.announced(tmp_path, announced):
            file = tmp_path / "dashboard.address"
            assert stat.S_IMODE(file.stat().st_mode) == 0o600
            assert file.read_text() == announced.page(secret=True) + "\n"
            assert address.find(tmp_path) == announced
            # The token is not sent, so that another program at the port does not get it, and cannot answer.
            assert TOKEN not in server.received
            server.known = Address(announced.port, "another's")
            assert address.find(tmp_path) is None
            # Nor can it let the dashboard at another port answer.
            server.known = Address(announced.port + 1, TOKEN)
            assert address.find(tmp_path) is None
            # What another user can have written is not believed.
            server.known = announced
            file.chmod(0o644)
            assert address.find(tmp_path) is None
            file.chmod(0o600)
            if os.geteuid() == 0:
                os.chown(file, 65534, 65534)
                assert address.find(tmp_path) is None
                os.chown(file, 0, 0)
            assert address.find(tmp_path) == announced
        assert list(tmp_path.iterdir()) == []
        server.shutdown()


def test_a_response_is_not_repeated() -> None:
    """It answers one challenge only, and not a text that is none."""
    here = Address(5005, TOKEN)
    assert here.proof("0" * 64) != here.proof("1" * 64)
    assert here.proof("") is here.proof("0" * 63) is here.proof("x" * 64) is here.proof("0" * 64 + "\n") is None


def test_the_address_of_another_dashboard_is_kept(tmp_path: Path) -> None:
    file = tmp_path / "dashboard.address"
    with address.announced(tmp_path, Address(1, TOKEN)):
        write(file, "http://127.0.0.1:2/?token=another")
    assert file.read_text() == "http://127.0.0.1:2/?token=another"


def test_a_link_is_replaced_and_not_followed(tmp_path: Path) -> None:
    (tmp_path / "target").write_text("mine")
    (tmp_path / "dashboard.address").symlink_to("target")
    with address.announced(tmp_path, Address(1, TOKEN)):
        assert not (tmp_path / "dashboard.address").is_symlink()
        (tmp_path / "dashboard.address").rename(tmp_path / "copy")
        (tmp_path / "dashboard.address").symlink_to("copy")
    assert (tmp_path / "target").read_text() == "mine"
    assert (tmp_path / "dashboard.address").is_symlink()


def endless(file: Path) -> None:
    file.symlink_to("/dev/zero")


@pytest.mark.parametrize("make", [os.mkfifo, Path.mkdir, endless])
def test_something_else_in_its_place(tmp_path: Path, make: Callable[[Path], None]) -> None:
    make(tmp_path / "dashboard.address")
    found: list[Address | None] = []
    search = threading.Thread(target=lambda: found.append(address.find(tmp_path)), daemon=True)
    search.start()
    search.join(timeout=10)
    assert found == [None]


@pytest.mark.parametrize("sends", [b"", b"HTTP/1.1 200 OK\r\n"])
def test_the_search_times_out(tmp_path: Path, sends: bytes) -> None:
    """A server that does not respond, or never ends its response, delays training by less than a second."""
    with socket.socket() as hanging:
        hanging.bind(("127.0.0.1", 0))
        hanging.listen()

        def drip() -> None:
            connection, _ = hanging.accept()
            with connection, contextlib.suppress(OSError):
                while sends:
                    connection.sendall(sends + b"X: 1\r\n")

        server = threading.Thread(target=drip, daemon=True)
        server.start()
        write(tmp_path / "dashboard.address", f"http://127.0.0.1:{hanging.getsockname()[1]}/?token={TOKEN}\n")
        found: list[Address | None] = []
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
        write(work / "logs" / "dashboard.address", f"http://127.0.0.1:{hanging.getsockname()[1]}/?token={TOKEN}\n")
        done = train(
            "epochs=1", "train_samples=500", "valid_samples=100", "device.use_cuda=false", f"data_path={data_path}"
        )
    assert done.returncode == 0, done.stderr
    assert "Watch it" not in done.stdout
    assert "Final accuracy" in done.stdout


@pytest.mark.parametrize("name", ["8b9c-41", "latest"])
def test_a_folders_name_is_its_id(name: str) -> None:
    assert address.run_id(name) == name


@pytest.mark.parametrize("name", ["my_run", "", "a b", "ü", "../x", "a\n", os.fsdecode(b"\xff")])
def test_other_names_get_an_id(name: str) -> None:
    assert re.fullmatch("name-[0-9a-f]{32}", address.run_id(name))
    assert address.run_id(address.run_id(name)) != address.run_id(name)  # a folder with this name has another id
    assert address.run_id(name) != address.run_id(f"{name}_")


def test_a_page_that_opens_another_requests_no_icon() -> None:
    """A server without one would answer 404, an error in the browser's console."""
    assert '<link rel="icon" href="data:,">' in forwarding("http://127.0.0.1:5006/")
