"""Runs to compare: copies of a real one with other settings, whose logged values are changed a little."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tests.conftest import another


def varied(
    run: Path,
    logs: Path,
    uuid: str,
    *,
    settings: Mapping[str, Any],
    part: float = 1.0,
    status: str = "completed",
) -> Path:
    """A copy of a run with other settings and other values, which the uuid determines; only this part of its log."""
    copy = another(run, logs, uuid, f"08:{int(uuid[:2]) // 60:02d}:{int(uuid[:2]) % 60:02d}", **settings)
    random = np.random.default_rng(int(uuid[:2]))
    of_run = random.normal(0.2, 0.1)
    lines = (copy / "log.jsonl").read_text().splitlines()
    changed = []
    for line in lines[: int(part * len(lines))]:
        entry = json.loads(line)
        for name, points in entry["track"].items():
            for _, values in points:
                factor = np.exp(of_run + random.normal(0, 0.05))
                if name.startswith("accuracy."):
                    values[:] = [round(1 - min(1, (1 - value) * factor), 4) for value in values]
                else:
                    values[:] = [value * factor for value in values]
        changed.append(json.dumps(entry))
    (copy / "log.jsonl").write_text("\n".join(changed) + "\n")
    (copy / "run_log.jsonl").write_text(json.dumps({"status": status, "time": 1.7e9}) + "\n")
    return copy


def make_sweep(full_run: Path, logs: Path) -> list[Path]:
    """Twelve runs, three seeds for each of four settings. One has diverged, one was interrupted."""
    found: list[Path] = []
    for norm in ("batch_norm", "none"):
        for rate in (0.001, 0.01):
            for seed in (1, 2, 3):
                number = len(found) + 10
                state = {21: ("diverged", 0.4), 18: ("interrupted", 0.7)}.get(number, ("completed", 1.0))
                settings = {"norm": norm, "optimizer.learning_rate": rate, "seed.seed": seed}
                run = varied(full_run, logs, f"{number}{seed}beef", status=state[0], part=state[1], settings=settings)
                if norm == "none":
                    without_statistics(run)
                found.append(run)
    return found


def without_statistics(run: Path) -> None:
    """Remove the running statistics from a log, which a run without normalization does not have."""
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    for entry in lines:
        entry["track"] = {name: points for name, points in entry["track"].items() if not name.startswith("bn.")}
    (run / "log.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in lines))
