"""The process of one run: what it reports, and when."""

import io
import json

import pytest

from labml_bn.training.sweeps import worker
from labml_bn.training.sweeps.worker import Reporter


def test_progress_is_reported_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    """The rest of it at the end; the process is tested in test_jobs.py."""
    times = iter([0.0, 0.1, worker.INTERVAL, 0.3])
    monkeypatch.setattr(worker.time, "monotonic", lambda: next(times))  # type: ignore[attr-defined]
    output = io.StringIO()
    with Reporter(output, 1000) as reporter:
        for images in (1, 2, 4):
            reporter.batch(images)
    reports = [json.loads(line) for line in output.getvalue().splitlines()]
    assert reports == [{"seen": 1000}, {"images": 3}, {"images": 4}]
