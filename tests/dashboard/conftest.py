"""The dashboard as a user runs it: in its own process, with a folder of runs."""

import contextlib
import ctypes
import http.client
import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.conftest import metrics


@dataclass
class Dashboard:
    """A running dashboard."""

    process: "subprocess.Popen[str]"
    port: int
    token: str

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def printed(self) -> str:
        """The address that it has printed."""
        return f"{self.url}/?token={self.token}"

    def request(
        self,
        method: str,
        path: str,
        body: str | bytes | None = None,
        headers: dict[str, str] | None = None,
        *,
        with_token: bool = True,
    ) -> tuple[int, dict[str, str], bytes]:
        """The response to a request: status, headers, body. The path is sent unchanged."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        with contextlib.closing(connection):
            known = {"Authorization": f"token {self.token}"} if with_token else {}
            connection.request(method, path, body, {**known, **(headers or {})})
            response = connection.getresponse()
            return response.status, {key.lower(): value for key, value in response.getheaders()}, response.read()

    def get(self, path: str) -> Any:
        """The data in a response of the app."""
        status, _, body = self.request("GET", f"/api/v1/{path}")
        assert status == 200, body
        return json.loads(body)

    def post(self, path: str, data: Any, method: str = "POST") -> Any:
        """The same for a request with data."""
        status, _, body = self.request(method, f"/api/v1/{path}", json.dumps(data))
        assert status == 200, body
        return json.loads(body)

    def runs(self) -> list[dict[str, Any]]:
        """The list of runs, as the page gets it."""
        found: list[dict[str, Any]] = self.get("runs/null?folder_name=default")["runs"]
        return found


Start = Callable[..., AbstractContextManager[Dashboard]]


def logged(run: Path) -> dict[str, tuple[list[float], list[float]]]:
    """The steps and values of each series that the page should draw, from the run's log, in float32.

    Of what has several values at each step, these are percentiles.
    """

    def float32(numbers: Any) -> list[float]:
        return [float(number) for number in np.array(numbers, np.float32)]

    found = {}
    for name, points in metrics(run).items():
        steps, values = float32([step for step, _ in points]), np.array([values for _, values in points])
        if name.startswith("bn.") or values.shape[1] > 1:
            for percent in (15, 50, 85):
                found[f"{name}.p{percent}"] = steps, float32(np.quantile(values, percent / 100, axis=1))
        else:
            found[name] = steps, float32(values[:, 0])
    return found


def wait_until(holds: Callable[[], bool], seconds: float = 30) -> None:
    """Wait for a condition. Raises AssertionError if it does not hold in time."""
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "timed out"
        time.sleep(0.2)


def copies(environment: dict[str, str]) -> Path:
    """The folder in which the user's dashboards keep copies of their databases."""
    return Path(environment["HOME"]) / ".local" / "state" / "labml_bn" / "dashboard"


def delete_copies(environment: dict[str, str]) -> None:
    """Delete them, so that all is imported again."""
    for path in copies(environment).glob("*.data"):
        path.unlink()


@pytest.fixture
def run(trained: Path, work: Path) -> Path:
    """A finished run in `work/logs`."""
    return Path(shutil.copytree(trained, work / "logs" / "batch_norm" / trained.name))


@pytest.fixture
def start(work: Path, environment: dict[str, str]) -> Start:
    """Start the dashboard for `work/logs`, on a free port. It is killed at the end of the block.

    It can be made to ignore SIGHUP, to obey the permissions of files even as root, and to open no more files at once
    and write no larger ones than these.
    """

    @contextlib.contextmanager
    def started(
        *arguments: str,
        nohup: bool = False,
        obeys_permissions: bool = False,
        most_files: int | None = None,
        file_limit: int | None = None,
        **variables: str,
    ) -> Iterator[Dashboard]:
        def prepare() -> None:
            signal.signal(signal.SIGINT, signal.default_int_handler)
            if nohup:
                signal.signal(signal.SIGHUP, signal.SIG_IGN)
            if obeys_permissions and os.geteuid() == 0:
                # The right of root to write everywhere (CAP_DAC_OVERRIDE) is not given to the program.
                ctypes.CDLL(None).prctl(24, 1, 0, 0, 0)
            if most_files is not None:
                resource.setrlimit(resource.RLIMIT_NOFILE, (most_files, most_files))
            if file_limit is not None:
                resource.setrlimit(resource.RLIMIT_FSIZE, (file_limit, file_limit))

        command = [sys.executable, "-m", "labml_bn.dashboard", "--no-browser", "--port", "0", *arguments]
        process = subprocess.Popen(
            command,
            cwd=work,
            env={**environment, **variables},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=prepare,
        )
        with process:
            try:
                assert process.stdout is not None
                lines = [process.stdout.readline(), process.stdout.readline()]
                printed = re.fullmatch(r"dashboard: http://127\.0\.0\.1:(\d+)/\?token=(\S+) \(.*\)\n", lines[1])
                assert printed, (lines, process.communicate())
                yield Dashboard(process, int(printed[1]), printed[2])
            finally:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process.pid, signal.SIGKILL)

    return started
