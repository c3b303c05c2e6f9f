"""`compare --live`: the page of runs that are still running, as a user serves and opens it."""

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

from labml_bn.cli.errors import UserError
from labml_bn.dashboard import live
from labml_bn.dashboard.live import MatchingRuns
from labml_bn.records import record
from tests.browser import needs_browser, visiting
from tests.conftest import Begin, Run, another, metrics, runs
from tests.dashboard.conftest import Dashboard, wait_until

Serve = Callable[..., AbstractContextManager[Dashboard]]


@pytest.fixture
def serve(work: Path, environment: dict[str, str]) -> Serve:
    """Start `compare RUN... --live` on a free port. It is killed at the end of the block."""

    @contextlib.contextmanager
    def started(*names: str) -> Iterator[Dashboard]:
        command = [sys.executable, "-m", "labml_bn.compare", *names, "--live", "--port", "0", "--no-browser"]
        process = subprocess.Popen(
            command,
            cwd=work,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )
        with process:
            try:
                assert process.stdout is not None
                line = process.stdout.readline()
                printed = re.fullmatch(
                    r"comparison: http://127\.0\.0\.1:(\d+)/\?token=(\S+) \(Ctrl-C ends it\)\n", line
                )
                assert printed, (line, process.communicate())
                yield Dashboard(process, int(printed[1]), printed[2])
            finally:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process.pid, signal.SIGKILL)

    return started


def data_of(served: Dashboard) -> dict[str, Any]:
    status, _, body = served.request("GET", "/api/data")
    assert status == 200, body
    data: dict[str, Any] = json.loads(body)
    return data


def test_what_is_served_and_to_whom(logs: Path, work: Path, serve: Serve) -> None:
    with serve("latest:5") as served:
        status, headers, body = served.request("GET", "/")
        assert status == 200
        policy = headers["content-security-policy"]
        assert "connect-src 'self'" in policy
        assert "unsafe-inline" not in policy
        assert "frame-ancestors 'none'" in policy
        assert headers["x-frame-options"] == "DENY"
        assert b'data-live="true"' in body
        status, headers, body = served.request("GET", "/api/data")
        assert (status, headers["content-type"]) == (200, "application/json")
        assert [run["uuid"] for run in json.loads(body)["runs"]] == ["aaaa0000", "bbbb0000"]
        unchanged = {"If-None-Match": headers["etag"]}
        assert served.request("GET", "/api/data", headers=unchanged)[::2] == (304, b"")

        # Nobody else is let in, and nothing else is answered.
        for path in ("/", "/api/data"):
            assert served.request("GET", path, with_token=False)[0] == 403
            assert served.request("GET", path, headers={"Host": "evil.example"})[0] == 403
            assert served.request("GET", path, headers={"Origin": "http://evil.example"})[0] == 403
            assert served.request("POST", path, "{}")[0] == 405
        for path in ("/docs", "/openapi.json", "/../../etc/passwd", "/compare.html"):
            assert served.request("GET", path)[0] == 404
        opening = work / "logs" / "comparison.html"
        assert served.printed in opening.read_text()
        assert opening.stat().st_mode & 0o777 == 0o600

        # What has changed is there, and what has come.
        another(logs / "batch_norm" / "aaaa0000", logs, "cccc0000", "10:00:00")
        status, headers, body = served.request("GET", "/api/data", headers=unchanged)
        assert [run["uuid"] for run in json.loads(body)["runs"]] == ["aaaa0000", "bbbb0000", "cccc0000"]
        (logs / "batch_norm" / "aaaa0000" / "notes.json").write_text('{"name": "the first"}')
        assert data_of(served)["runs"][0]["name"] == "the first"
        shutil.rmtree(logs / "batch_norm")
        for path in ("/", "/api/data"):
            assert served.request("GET", path)[::2] == (
                503,
                b"there are no runs in logs (python -m labml_bn.train makes one)",
            )

        served.process.send_signal(signal.SIGINT)
        _, errors = served.process.communicate(timeout=20)
        assert (served.process.returncode, errors) == (130, "interrupted\n")
        assert not opening.exists()
        assert [path.name for path in work.iterdir()] == ["logs"]


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["latest", "--port", "70000"], 2, "error: --port 70000: a port is a number from 0 to 65535"),
        (["nothing"], 1, "no run in logs begins with 'nothing'"),
        (["latest", "--logs", "nowhere"], 1, "there are no runs in nowhere"),
    ],
)
def test_wrong_use(logs: Path, command: Run, arguments: list[str], status: int, message: str) -> None:
    done = command("compare", *arguments, "--live", "--no-browser")
    assert done.returncode == status
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1


#: The command, in an environment in which a package is not installed.
WITHOUT = """
import sys
sys.modules["uvicorn"] = None
sys.argv = ["compare", "latest", "--live"]
from labml_bn.cli.command import run_command
from labml_bn.compare import main
run_command(main)
"""


def test_without_the_packages(logs: Path, work: Path, environment: dict[str, str]) -> None:
    command = [sys.executable, "-c", WITHOUT]
    done = subprocess.run(command, cwd=work, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    needed = "--live needs packages that are not installed (uvicorn): pip install 'labml-bn[dashboard]'"
    assert done.stderr == f"error: {needed}\n"


def test_it_does_not_import_labmls_app(logs: Path, work: Path) -> None:
    code = "import sys; import labml_bn.dashboard.live; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=work, capture_output=True, text=True, check=True)
    assert not {"labml", "labml_app", "labml_db", "torch"} & set(done.stdout.split())


def test_only_changed_runs_are_read_again(logs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    original = record.read_run

    def noted(run: Path) -> Any:
        read.append(run.name)
        return original(run)

    monkeypatch.setattr(live, "read_run", noted)
    matching = MatchingRuns(["latest:5"], logs)
    first = matching.data()
    assert read == ["aaaa0000", "bbbb0000"]
    assert matching.data() is first
    with (logs / "batch_norm" / "bbbb0000" / "log.jsonl").open("a") as file:
        file.write('{"track": {"loss.test": [[99999, [0.5]]]}}\n')
    assert matching.data() != first
    assert read == ["aaaa0000", "bbbb0000", "bbbb0000"]


def test_a_run_that_cannot_be_read(logs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It is left out, and reported once."""
    notes = logs / "batch_norm" / "aaaa0000" / "configs.yaml"
    notes.unlink()
    notes.symlink_to("/dev/zero")
    matching = MatchingRuns(["latest:5"], logs)
    assert [run["uuid"] for run in json.loads(matching.data())["runs"]] == ["bbbb0000"]
    (logs / "batch_norm" / "bbbb0000" / "notes.json").write_text("{}")
    matching.data()
    assert capsys.readouterr().err.count("this run cannot be read") == 1
    shutil.rmtree(logs / "batch_norm" / "bbbb0000")
    with pytest.raises(UserError, match=r"^there are no runs to compare$"):
        matching.data()


@needs_browser
@pytest.mark.slow
def test_a_running_run_is_followed(
    full_run: Path, work: Path, begin: Begin, data_path: Path, serve: Serve, tmp_path: Path
) -> None:
    """The open page shows new values, a new run and the end, and keeps what was chosen."""
    another(full_run, work / "logs", "aaaa0000")
    settings = [
        "epochs=500",
        "train_samples=1000",
        "valid_samples=500",
        "device.use_cuda=false",
        f"data_path={data_path}",
    ]
    with serve("latest:9") as served, visiting(tmp_path / "browser") as visit:
        page = visit.page
        page.goto(served.printed)
        page.wait_for_function("() => window.comparison")
        page.evaluate("window.isFirst = true")
        page.get_by_label("filter").fill("seed=5")
        page.get_by_label("group by").select_option("each run")
        page.evaluate("comparison.state.zoomX = [0, 5000]; comparison.draw()")
        training = begin(*settings)
        wait_until(lambda: len(runs(work)) == 2)
        (run,) = (run for run in runs(work) if run.name != "aaaa0000")
        page.wait_for_function("() => comparison.data.runs.length === 2", timeout=30_000)
        count = "() => comparison.data.runs[1].metrics['accuracy.test']?.values.length"
        page.wait_for_function(f"() => ({count})() > 0", timeout=60_000)
        assert page.evaluate("comparison.data.isRunning")
        assert "running" in page.inner_text("table")
        seen = page.evaluate(f"({count})()")
        page.wait_for_function(f"() => ({count})() > {seen}", timeout=60_000)
        training.send_signal(signal.SIGINT)
        wait_until(lambda: training.poll() is not None)
        page.wait_for_function("() => !comparison.data.isRunning", timeout=30_000)
        assert page.evaluate("window.isFirst")
        assert page.get_by_label("filter").input_value() == "seed=5"
        assert page.evaluate("[comparison.state.by, comparison.state.zoomX]") == ["each run", [0, 5000]]
        drawn = page.evaluate("comparison.panels.get('accuracy.test').chart.data[2]")
        expected = [values[0] for _, values in metrics(run)["accuracy.test"]]
        assert [value for value in drawn if value is not None] == expected
        assert "interrupted" in page.inner_text("table")
        assert visit.errors == []
        assert visit.hosts == {"127.0.0.1"}

        served.process.send_signal(signal.SIGINT)
        served.process.wait(timeout=20)
        page.get_by_text("The server has ended").wait_for(timeout=40_000)
