"""Hostile run folders. Each is a small finished run that one function has changed."""

import json
import os
import shutil
import struct
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from labml_bn.records.record import LOG_LIMIT
from labml_bn.trained.weights import FORMAT, WEIGHTS, _digest

#: The files of a run that are read, as far as they are not checkpoints.
FILES = ("run.yaml", "configs.yaml", "run_log.jsonl", "log.jsonl", "notes.json", WEIGHTS)

#: The layers of the run that is changed.
LAYERS = "4C5-P4-8N"

Change = Callable[[Path], object]

#: 0.5 KB of YAML that stands for 10^12 values.
BOMB = "a: &a {x: 1}\n" + "\n".join(
    f"{name}: &{name} [{', '.join([f'*{one}'] * 10)}]" for one, name in zip("abcdefghijk", "bcdefghijkl", strict=True)
)


def _written(name: str, content: bytes) -> Change:
    return lambda run: (run / name).write_bytes(content)


def _appended(name: str, content: bytes) -> Change:
    return lambda run: (run / name).write_bytes((run / name).read_bytes() + content)


def _replaced(name: str, create: Change) -> Change:
    def change(run: Path) -> None:
        path = run / name
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        create(path)

    return change


def _sparse(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(LOG_LIMIT + 1)


def _newest(create: Change) -> Change:
    def change(run: Path) -> None:
        newest = max((run / "checkpoints").glob("*.pt"))
        newest.unlink()
        create(newest)

    return change


def _checkpoint(**changes: Any) -> Change:
    def change(run: Path) -> None:
        for path in (run / "checkpoints").glob("*.pt"):
            torch.save({**torch.load(path, weights_only=True), **changes}, path)

    return change


def _checkpoint_bytes(make: Callable[[bytes], bytes]) -> Change:
    def change(run: Path) -> None:
        for path in (run / "checkpoints").glob("*.pt"):
            path.write_bytes(make(path.read_bytes()))

    return change


def _compressed(path: Path) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", bytes(10**8))
        archive.writestr("archive/version", "3")


class _Memory:
    """6 GB, in a few bytes of a pickle."""

    def __reduce__(self) -> tuple[object, ...]:
        return bytearray, (6_000_000_000,)


def _without_time(run: Path) -> None:
    (run / "run.yaml").write_text("name: x\n")
    os.utime(run, (253402300900, 253402300900))  # in the year 10000


def _weights(settings: object) -> Change:
    """Weights with other settings, and a checksum that is right."""
    written = settings if isinstance(settings, str) else json.dumps(settings)

    def change(run: Path) -> None:
        tensors = load_file(run / WEIGHTS)
        metadata = {"format": FORMAT, "settings": written, "sha256": _digest(tensors, written)}
        save_file(tensors, run / WEIGHTS, metadata=metadata)

    return change


def _header(header: bytes, claimed: int | None = None) -> Change:
    """Weights that consist of this header."""
    return _written(WEIGHTS, struct.pack("<Q", len(header) if claimed is None else claimed) + header)


_DEEP = b"[" * 100_000
_TERABYTE = json.dumps({"a": {"dtype": "F32", "shape": [1 << 38], "data_offsets": [0, 1 << 40]}}).encode()
_POINTS = (
    b'{"track": {"loss.train": [[1, [NaN]], [2, [1e999]], [-5, [1]], [9' + b"0" * 30 + b", [1]], [1, []], 7], "
    b'"\\u001b[2J": [[1, [1]]]}}\n'
)


#: So many tags as no run has.
_TAGS = [f"tag {number}" for number in range(10_000)]


def _notes(**entries: Any) -> Change:
    """What someone else has written about a run."""
    return _written("notes.json", json.dumps(entries).encode())


def _changes() -> Iterator[tuple[str, str, Change]]:
    """The file that is changed, what is hostile about it, and the change."""
    for name in (*FILES, "run.lock"):
        yield name, "a link to a device", _replaced(name, lambda path: path.symlink_to("/dev/zero"))
        yield name, "a folder", _replaced(name, os.mkdir)
    for name in (*FILES, "run.lock", "checkpoints"):
        yield name, "a pipe", _replaced(name, os.mkfifo)
    for name in (*FILES, "run.lock", "indicators.yaml", "run.pid"):
        yield name, "a link elsewhere", _replaced(name, lambda path: path.symlink_to("../../../outside/file"))
    for name in FILES:
        yield name, "too large", _replaced(name, _sparse)
        yield name, "deep", _written(name, _DEEP)
        yield name, "binary", _written(name, bytes(range(256)) * 100)

    yield "run.yaml", "a bomb", _written("run.yaml", BOMB.encode())
    yield "run.yaml", "of the year 1", _written("run.yaml", b"trial_date: '0001-01-01'\ntrial_time: '00:00:00'\n")
    yield "run.yaml", "of the year 9999", _written("run.yaml", b"trial_date: '9999-12-31'\ntrial_time: '23:59:59'\n")

    yield "run.yaml", "of no time", _without_time

    for what, sweep in (
        ("with control characters", '"a\\e[2Jb"'),
        ("very long", "x" * 900_000),
        ("a list", "[a, b]"),
        ("elsewhere", "../../outside"),
        ("latest", "latest"),
    ):
        yield "run.yaml", f"of a sweep {what}", _appended("run.yaml", f"\nsweep: {sweep}\n".encode())
    yield "run.yaml", "with very many tags", _appended("run.yaml", f"\ntags: {json.dumps(_TAGS[:5000])}\n".encode())
    yield "notes.json", "with very many tags", _notes(tags=_TAGS)
    yield "notes.json", "with a very long tag", _notes(tags=["x" * 1_000_000])
    yield "notes.json", "with other tags", _notes(tags=[1, {"a": []}, None])
    yield "notes.json", "with formulas", _notes(tags=["=1+1"], name="=cmd|' /C calc'!A0", note="@SUM(1)")
    hidden = "a\x1b[2J\x1b]0;title\x07\r\n\u202eb\u0085"
    yield "notes.json", "with control characters", _notes(tags=[hidden], name=hidden, note=hidden, comment=hidden)
    yield "notes.json", "with half a character", _written("notes.json", b'{"name": "\\ud800", "tags": ["\\udfff"]}')
    yield "notes.json", "with a page", _notes(name="<img src=x onerror=alert(1)>", tags=["<script>alert(1)</script>"])
    yield "notes.json", "very long", _notes(name="x" * 300_000, note="y " * 150_000, comment="z" * 300_000)

    yield "configs.yaml", "a bomb", _written("configs.yaml", BOMB.encode())
    yield "configs.yaml", "a number to the base 60", _written("configs.yaml", b"epochs: " + b"1:" * 400_000 + b"1")
    yield "configs.yaml", "a huge number", _written("configs.yaml", b"train_samples: {value: 0x" + b"f" * 9000 + b"}")
    yield "configs.yaml", "directives", _written("configs.yaml", b"%TAG !k! x\n" * 60_000 + b"--- {}")
    yield "configs.yaml", "code", _written("configs.yaml", b"!!python/object/apply:os.system ['touch outside/run']\n")
    yield (
        "configs.yaml",
        "of a giant",
        _appended("configs.yaml", b"\nlayers: {value: 9999N-9999N-9999N, computed: null}\n"),
    )
    elsewhere = b"\ndata_folder: {value: null, computed: ../../../outside}\n"
    yield "configs.yaml", "with data elsewhere", _appended("configs.yaml", elsewhere)

    yield "log.jsonl", "with impossible metrics", _appended("log.jsonl", _POINTS)
    yield "log.jsonl", "with deep metrics", _appended("log.jsonl", b'{"track": {"loss.train": ' + _DEEP + b"\n")
    yield "log.jsonl", "with a very long line", _appended("log.jsonl", b" " * (1 << 25) + b"\n")

    yield "checkpoints", "a link elsewhere", _replaced("checkpoints", lambda path: path.symlink_to("../../../outside"))
    yield "checkpoints", "with a link", _newest(lambda path: path.symlink_to("../../../../outside/file"))
    yield "checkpoints", "with a pipe", _newest(os.mkfifo)
    yield "checkpoints", "compressed", _newest(_compressed)
    yield "checkpoints", "halved", _checkpoint_bytes(lambda content: content[: len(content) // 2])
    yield "checkpoints", "with a flipped bit", _checkpoint_bytes(lambda content: content[:2000] + b"!" + content[2001:])
    yield "checkpoints", "empty", _checkpoint_bytes(lambda content: b"")
    yield "checkpoints", "with the best elsewhere", _checkpoint(best={"name": "../../outside/file", "accuracy": 0.5})
    yield "checkpoints", "of a giant", _checkpoint(settings={"layers": "9999N-9999N-9999N"})
    yield "checkpoints", "that write elsewhere", _checkpoint(settings={"data_path": "outside", "logs_path": "outside"})
    yield "checkpoints", "without numbers", _checkpoint(progress={"epoch": "1", "step": None, "seen": []})
    yield "checkpoints", "of another optimizer", _checkpoint(optimizer={"state": {0: {"step": 3}}, "param_groups": 7})
    other = {"python": 1, "numpy": (), "torch": None, "cuda": {}}
    yield "checkpoints", "of other random states", _checkpoint(random=other)
    nothing = {"conv1.weight": torch.zeros(1).expand(10**12)}
    yield "checkpoints", "with a tensor of nothing", _checkpoint(model=nothing)

    yield "checkpoints", "of much memory", _checkpoint(metrics=_Memory())

    yield WEIGHTS, "with a header without end", _header(b"{}", claimed=1 << 62)
    yield WEIGHTS, "of a terabyte", _header(_TERABYTE)
    yield WEIGHTS, "with a deep header", _header(b'{"__metadata__": ' + b'{"a": ' * 100_000)
    yield WEIGHTS, "with deep settings", _weights("[" * 100_000)
    yield WEIGHTS, "of a giant", _weights({"layers": "-".join(["9999N"] * 100)})
    yield WEIGHTS, "of very many layers", _weights({"layers": "-".join(["1N"] * 100_000)})
    yield WEIGHTS, "that write elsewhere", _weights({"data_path": "outside", "layers": LAYERS})
    yield WEIGHTS, "that evaluate all at once", _weights({"valid_batch_size": 10**18, "layers": LAYERS})


#: Every change, by what is hostile: the file that is changed, and how.
CHANGES: dict[str, tuple[str, Change]] = {f"{name} {what}": (name, change) for name, what, change in _changes()}

#: Names of folders that mean something to a terminal, a page, a figure or a file system.
NAMES = {
    f"the name {name!r}": name
    for name in (
        b"my_run",
        b"_first",
        b"a$\\frac{b$",
        b"a\x1b[2J\x1b]0;title\x07",
        b"two\nlines",
        b"not \xff\xfe UTF-8",
        "right\u202eto left".encode(),
        b"<img src=x onerror=alert(1)>",
        b"x" * 255,
        b"--help",
        b"a b'c\"d",
        b"%s{0}",
    )
}
