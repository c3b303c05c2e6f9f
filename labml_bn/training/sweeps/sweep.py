"""A sweep from its settings to its last run, or what is left of it; or the commands that would train its runs."""

import shlex
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from labml_bn.cli.errors import StoppedError, UsageError, UserError, exit_status
from labml_bn.cli.files import relative_path, resolve_folder
from labml_bn.cli.text import printable
from labml_bn.dashboard import address
from labml_bn.data.download import ensure_files, is_complete
from labml_bn.models import choose_device
from labml_bn.records import notes
from labml_bn.records.folder import INFO, is_sweep_name
from labml_bn.records.record import COMPLETED, DIVERGED, RUNNING
from labml_bn.settings import PATHS, Grid, as_typed, complete, default
from labml_bn.training import run, tracking
from labml_bn.training.forward import check_compiler
from labml_bn.training.sweeps import definition, jobs, plan
from labml_bn.training.sweeps.console import SweepConsole
from labml_bn.training.sweeps.definition import Definition
from labml_bn.training.sweeps.plan import RESUME, START, Part
from labml_bn.training.sweeps.pool import Pool


@dataclass(frozen=True)
class Outcome:
    """How a sweep ended: its name and the folder of its runs, how many they are, how many of them diverged or failed in
    another way, and the seconds that it took, None if nothing was left to do.
    """

    name: str
    logs: Path
    runs: int
    diverged: int
    failed: int
    elapsed: float | None


class Sweep:
    """Several runs in a folder of logs. `plan` says what has been done for each; `is_new` is whether to save it."""

    def __init__(self, logs: Path, sweep: Definition, plan: Callable[[], list[Part]], *, is_new: bool) -> None:
        self._logs, self._sweep, self._plan, self._is_new = logs, sweep, plan, is_new

    def commands(self) -> Iterator[str]:
        """A command for each run that is not complete, which trains it as a part of the sweep, on any machine."""
        for part in self._plan():
            if part.status == START:
                words = [f"{key}={as_typed(value)}" for key, value in part.settings.items()]
                words += ["--sweep", self._sweep.name]
                for tag in self._sweep.written.get("tags", []):
                    words += ["--tag", tag]
                if "note" in self._sweep.written:
                    words += ["--note", self._sweep.written["note"]]
                yield shlex.join(["python", "-m", "labml_bn.train", *words])
            elif part.status == RESUME:
                yield shlex.join(["python", "-m", "labml_bn.train", "--resume", str(part.folder)])

    def train(self, count: int | None) -> Outcome:
        """Train the runs that are not complete, `count` at a time.

        Raises UserError before the first one if any could not be trained, StoppedError if a signal ends the sweep.
        """
        tracking.check_logs(self._logs)
        with definition.held(self._logs, self._sweep.name):
            parts = self._plan()
            left = [part for part in parts if part.status in {RESUME, START}]
            _check(left)
            if self._is_new:
                definition.write(self._logs, self._sweep)
            size = min(_default_jobs(left) if count is None else count, max(1, len(left)))
            threads = jobs.threads(size)
            print(printable(self._summary(parts, left, size, threads)), flush=True)
            diverged = sum(part.status == DIVERGED for part in parts)
            if not left:
                return Outcome(self._sweep.name, self._logs, len(parts), diverged, 0, None)
            link = address.link(self._logs)
            if link is not None:
                print(f"Watch them: {link}", flush=True)
            done = diverged + sum(part.status == COMPLETED for part in parts)
            with SweepConsole(len(parts), done, sum(part.images for part in left), size) as console:
                try:
                    pool = Pool(self._sweep.name, self._sweep.written, console, size, threads)
                    pool.train(left)
                except KeyboardInterrupt as interrupt:
                    raise StoppedError(f"resume with: {self._command()}", exit_status(interrupt)) from None
                diverged += pool.diverged
                return Outcome(self._sweep.name, self._logs, len(parts), diverged, pool.failed, console.elapsed)

    def _summary(self, parts: list[Part], left: list[Part], size: int, threads: str) -> str:
        words = [f"sweep {self._sweep.name}: {_runs(len(parts))}"]
        for status, what in ((COMPLETED, "complete"), (DIVERGED, "diverged"), (RUNNING, "in use by another process")):
            number = sum(part.status == status for part in parts)
            words += [f"{number} {what}"] if number else []
        if left:
            words += [f"{size} at a time", f"{threads} thread{'s' * (threads != '1')} each"]
        return ", ".join(words)

    def _command(self) -> str:
        command = ["python", "-m", "labml_bn.train", "--resume", self._sweep.name]
        return shlex.join([*command, *([f"logs_path={self._logs}"] if str(self._logs) != default("logs_path") else [])])


def to_start(grid: Grid, name: str | None, written: Mapping[str, Any]) -> Sweep:
    """The sweep with these runs; what a sweep of this name has already done is not repeated.

    Without a name it is made from the keys that vary. `written` are the first notes of each run. Raises UsageError for
    an impossible name, impossible notes, or if the sweep of this name has other settings.
    """
    notes.check(written)
    logs = logs_of(grid.settings)
    sweep = Definition(definition.free_name(logs, grid.name()) if name is None else _checked_name(name), grid, written)
    found = definition.read(logs, sweep.name)
    if found is not None and not found.has_the_settings_of(grid):
        raise UsageError(f"the sweep {name} exists with other settings: choose another name (--sweep NAME)")
    is_new = found is None
    return Sweep(logs, sweep, lambda: plan.planned(logs, sweep, is_new=is_new), is_new=is_new)


def to_resume(name: str, given: Mapping[str, Any]) -> Sweep:
    """The sweep of this name, or what is known of it. Raises UsageError for settings besides its folders."""
    for key, value in given.items():
        if key not in PATHS:
            raise UsageError(f"{key}={as_typed(value)}: the settings of the sweep {name} cannot be changed")
    logs = logs_of(given)
    found = definition.read(logs, name)
    if found is None:
        return Sweep(logs, Definition(name, Grid({}, {})), lambda: plan.known(logs, name, given), is_new=False)
    settings = {"data_path": _data(logs, found), **found.grid.settings, **given}
    sweep = Definition(name, Grid(settings, found.grid.swept), found.written)
    return Sweep(logs, sweep, lambda: plan.planned(logs, sweep, is_new=False), is_new=False)


def is_sweep(name: str, given: Mapping[str, Any]) -> bool:
    """Whether this is the name of a sweep in the logs, and not a run's folder."""
    return definition.exists(logs_of(given), name) and not (Path(name) / INFO).is_file()


def logs_of(settings: Mapping[str, Any]) -> Path:
    """The folder of the runs in these settings, relative to the working directory."""
    return Path(relative_path(resolve_folder(settings.get("logs_path", default("logs_path")))))


def train_one(
    settings: Mapping[str, Any], name: str, written: Mapping[str, Any], model: run.Make | None = None
) -> run.Finished | None:
    """Train one run as a part of a sweep, in this process; it is resumed if it was interrupted.

    `model` makes its network, if that is its own (`run.start`). Returns None if it was already complete. Raises
    UserError if the sweep has no such run, or if it has diverged or is in use by another process.
    """
    logs = logs_of(settings)
    found = definition.read(logs, _checked_name(name))
    swept = found.grid.swept.keys() if found else plan.IGNORED
    if found and all(not plan.is_same(settings, other, swept) for other in found.grid.combinations()):
        raise UsageError(f"the sweep {name} has no run with these settings: choose another name (--sweep NAME)")
    part = plan.part_of(dict(settings), name, plan.trained(settings, plan.by_identity(logs, name, swept), swept))
    if part.status == COMPLETED:
        print(printable(f"{part.folder} had already completed its epochs, with these settings"))
        return None
    if part.status == RUNNING:
        raise UserError(f"{part.folder} is in use by another process")
    if part.status == DIVERGED:
        raise UserError(f"{part.folder} has diverged, with these settings")
    if part.status == RESUME:
        return run.resume(str(part.folder), {}, model=model)
    return run.start(settings, sweep=name, written=written, model=model)


def _checked_name(name: str) -> str:
    if name == "latest":
        raise UsageError(f"{name!r} cannot be a sweep's name: it means the newest run")
    if not is_sweep_name(name):
        raise UsageError(f"{name!r} cannot be a sweep's name: write at most 100 letters and digits, . _ and - inside")
    return name


def _data(logs: Path, sweep: Definition) -> str:
    """The folder of the data sets that the sweep used, if it has them all; the default otherwise.

    Someone else may have made the definition: nothing is written to a folder that it names.
    """
    fallback: str = default("data_path")
    if sweep.data is None:
        return fallback
    folder = (definition.path(logs, sweep.name).parent.resolve() / sweep.data).resolve()
    names = {complete(settings)["dataset"] for settings in sweep.grid.combinations()}
    return relative_path(folder) if all(is_complete(name, folder) for name in names) else fallback


def _check(parts: Iterable[Part]) -> None:
    """Raise UserError if one of these runs could not be trained here. Downloads what is missing of the data sets."""
    values = [complete(part.settings) for part in parts]
    _devices(values)
    for dataset, data_path in {(value["dataset"], value["data_path"]) for value in values}:
        ensure_files(dataset, resolve_folder(data_path))
    for device in _devices([value for value in values if value["compile"]]):
        check_compiler(device)


def _default_jobs(parts: list[Part]) -> int:
    """How many runs are trained at the same time, if the user does not say: on a GPU one."""
    if any(device.type == "cuda" for device in _devices([complete(part.settings) for part in parts])):
        return 1
    return jobs.default_jobs(jobs.cores(), len(parts))


def _devices(values: Iterable[Mapping[str, Any]]) -> set[torch.device]:
    """The devices that runs with these settings use. Raises UserError if one of them is not there."""
    return {choose_device(value["device.use_cuda"], value["device.cuda_device"]) for value in values}


def _runs(number: int) -> str:
    return f"{number} run{'s' * (number != 1)}"
