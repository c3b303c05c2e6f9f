"""Measuring the seeds of an experiment, several at a time. Each is stored as soon as it is measured.

The stored ones are used again if the code that measures and its arguments are the same.
"""

import contextlib
import hashlib
import json
import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from tqdm import tqdm

from experiments.laboratory import Found, stacked
from experiments.machinery.catalogue import Entry
from labml_bn.cli.errors import UserError, os_errors_as
from labml_bn.cli.files import replacing
from labml_bn.cli.text import printable
from labml_bn.training.sweeps import jobs
from labml_bn.training.sweeps.jobs import Job

WORKER = "experiments.machinery.worker"


@dataclass(frozen=True)
class Trials:
    """The seeds from 1 to `seeds` of an experiment, with these arguments of `measure` (JSON).

    Training runs go to the folder `logs`.
    """

    entry: Entry
    seeds: int
    size: Mapping[str, Any]
    logs: Path

    @cached_property
    def code(self) -> str:
        """The checksum of the code, as it is now."""
        return self.entry.code()

    @property
    def key(self) -> str:
        """What stands for the code and the arguments: numbers with another key are others."""
        return hashlib.sha256(f"{self.code} {json.dumps(self.size, sort_keys=True)}".encode()).hexdigest()[:16]

    @property
    def folder(self) -> Path:
        """Where the seeds are stored."""
        return Path("logs", "experiments", "seeds", self.entry.name, self.key)

    def stored(self) -> dict[int, dict[str, Any]]:
        """The seeds that were measured, in their order: what (`measured`), and when (`started`, `ended`)."""
        found = {}
        for seed in range(1, self.seeds + 1):
            with contextlib.suppress(FileNotFoundError, ValueError):
                found[seed] = json.loads((self.folder / f"{seed}.json").read_text(encoding="utf-8"))
        return found

    def measure(self, count: int, bar: "tqdm[Any]") -> None:
        """Measure the seeds that are missing, `count` at a time. Raises UserError, in one line, if one fails."""
        waiting = [seed for seed in range(self.seeds, 0, -1) if seed not in self.stored()]
        events: jobs.Events = SimpleQueue()
        running: dict[Job, int] = {}
        error = ""
        try:
            while waiting or running:
                while waiting and len(running) < count:
                    seed = waiting.pop()
                    task = {
                        "name": self.entry.name,
                        "code": self.code,
                        "seed": seed,
                        "size": self.size,
                        "sweep": f"{self.entry.name}-{self.key[:6]}",
                        "logs": str(self.logs),
                        "path": str(self.folder / f"{seed}.json"),
                    }
                    running[Job(task, jobs.threads(count), events, WORKER)] = seed
                job, kind, content = events.get()
                if kind == "line":
                    error = content.removeprefix("error: ") if content else error
                    if not content.startswith("error: "):
                        bar.write(printable(content), file=sys.stderr)
                elif kind == "end":
                    seed = running.pop(job)
                    if content != 0:
                        raise UserError(f"{self.entry.name}, seed {seed}: {error or f'ended with status {content}'}")
                    bar.update()
        finally:
            for job in running:
                job.interrupt()
            for job in running:
                job.end()


def store(path: Path, content: Mapping[str, Any]) -> None:
    """Write JSON atomically, a line for each entry. Raises UserError if that fails."""
    lines = [f"{json.dumps(name)}: {dumped(value)}" for name, value in content.items()]
    with os_errors_as(f"cannot write {path}"):
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as part:
            part.write_text("{" + ",\n".join(lines) + "}\n", encoding="utf-8")


def dumped(value: Any) -> str:
    """A value as JSON, tensors and arrays as lists. NaN and infinity are null: JSON has no words for them."""
    return json.dumps(_plain(value), allow_nan=False)


def _plain(value: Any) -> Any:
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, Mapping):
        return {name: _plain(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def found(stored: Mapping[int, Mapping[str, Any]]) -> Found:
    """What the stored seeds have measured. null is NaN."""
    return stacked(each["measured"] for each in stored.values())


def seconds(stored: Mapping[int, Mapping[str, Any]]) -> float:
    """How long it took to measure them: the time in which at least one was being measured."""
    total, end = 0.0, -math.inf
    for started, ended in sorted((each["started"], each["ended"]) for each in stored.values()):
        total += max(0.0, ended - max(started, end))
        end = max(end, ended)
    return total
