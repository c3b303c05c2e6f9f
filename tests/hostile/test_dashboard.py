"""The dashboard shows the good run and every other one that can be read, and each page of them loads."""

import re
import subprocess
import sys

from tests.dashboard.conftest import Dashboard
from tests.hostile.conftest import Received


def test_the_dashboard(received: Received) -> None:
    """Each run that cannot be read is a line, once, and nothing outside the logs changes."""
    before = received.outside()
    command = [sys.executable, "-m", "labml_bn.dashboard", "--no-browser", "--port", "0"]
    process = subprocess.Popen(
        command,
        cwd=received.work,
        env=received.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        try:
            assert process.stdout is not None
            process.stdout.readline()
            address = re.search(r":(\d+)/\?token=(\S+)", process.stdout.readline())
            assert address is not None
            dashboard = Dashboard(process, int(address[1]), address[2])
            shown = [entry["run_uuid"] for entry in dashboard.runs()]
            assert "good" in shown
            for uuid in shown:
                assert dashboard.get(f"run/{uuid}")["run_uuid"] == uuid
                assert dashboard.get(f"run/status/{uuid}")["run_status"]
                assert "series" in dashboard.post(f"metrics/{uuid}", {"get_all": True})
                assert "metrics" in dashboard.get(f"custom_metrics/{uuid}")
            process.terminate()
            _, errors = process.communicate(timeout=60)
        finally:
            process.kill()
    *warnings, end = errors.splitlines()
    assert end == "interrupted"
    assert all(warning.startswith("warning: ") for warning in warnings), warnings
    assert len(warnings) == len(set(warnings)) == len(received.hostile) + 1 - len(shown)
    assert received.outside() == before
