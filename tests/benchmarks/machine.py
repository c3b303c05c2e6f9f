"""The machine of a measurement: its description, and how busy other processes keep it."""

import os
import platform
import time
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from labml_bn.cli.errors import UserError

#: The version of a package that is missing.
NOT_INSTALLED = "not installed"

#: From this many cores on, used by other processes, the times are not trusted.
TOO_BUSY = 0.25


def describe() -> dict[str, str]:
    """The processor, its cores and the threads of PyTorch, and the versions of what is measured."""
    import torch

    versions = {"Python": platform.python_version()}
    for name in ("torch", "numba", "labml", "labml-nn"):
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = NOT_INSTALLED
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {"CPU": _model(), "cores": str(cores), "PyTorch's threads": str(torch.get_num_threads()), **versions}


def _model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor() or platform.machine()


@dataclass(frozen=True)
class Usage:
    """Seconds of processor time since the machine and this process were started: in all, and by this process."""

    time: float
    total: float
    own: float


def usage() -> Usage | None:
    """The processor time that has been used so far; None on other systems than Linux.

    `own` includes the subprocesses that have ended. Time that a hypervisor gave to others (`steal`) is in the total.
    """
    try:
        fields = Path("/proc/stat").read_text(encoding="utf-8").split("\n", 1)[0].split()[1:]
    except OSError:
        return None
    user, nice, system, _idle, _iowait, irq, softirq, steal = map(int, fields[:8])
    ticks = user + nice + system + irq + softirq + steal
    own = os.times()
    return Usage(time.monotonic(), ticks / os.sysconf("SC_CLK_TCK"), sum(own[:4]))


def others_since(start: Usage | None) -> float | None:
    """How many cores other processes have used on average since `start`; None if it is not known."""
    now = usage()
    if start is None or now is None:
        return None
    return max(0.0, (now.total - start.total) - (now.own - start.own)) / max(now.time - start.time, 1e-9)


def require_idle(*, refuse: bool, seconds: float = 1.0) -> str | None:
    """Observe the machine for a second. If other processes use it, raise UserError, or only return the complaint."""
    start = usage()
    if start is None:
        return None
    time.sleep(seconds)
    return judge(others_since(start), refuse=refuse)


def judge(others: float | None, *, refuse: bool) -> str | None:
    """Complain if other processes use this many cores: raise UserError, or return the complaint."""
    if others is None or others < TOO_BUSY:
        return None
    complaint = f"other processes use {others:.1f} cores, and one can make PyTorch ten times slower"
    if refuse:
        raise UserError(f"{complaint}: wait until they have ended, or give --anyway")
    return complaint
