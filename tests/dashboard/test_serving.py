"""The server that the dashboard and the live comparison share: its port, and the signals that end it."""

import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from labml_bn.cli.errors import UserError
from labml_bn.dashboard import serving


def test_a_port_of_this_machine_only() -> None:
    with serving.listen(0) as listener:
        assert listener.getsockname()[0] == "127.0.0.1"
        port = listener.getsockname()[1]
        with pytest.raises(UserError, match=f"^cannot open port {port}: .*; choose another with --port$"):
            serving.listen(port)
    with socket.create_server(("127.0.0.1", port)):
        pass  # it was closed


#: A dashboard that gets a signal at once, in a weak reference's callback, where Python ignores exceptions.
SIGNALLED = """
import os, signal, sys, weakref
from pathlib import Path
from labml_bn.cli.command import run_command
from labml_bn.dashboard import database, server, serving

class Referent: pass

def signalled(reference):
    os.kill(os.getpid(), int(sys.argv[1]))
    sum(range(10))

def opened(url):
    referent = Referent()
    reference = weakref.ref(referent, signalled)
    del referent

def main():
    signal.signal(int(sys.argv[1]), signal.SIG_DFL)  # a shell's background ignores it
    logs = Path("logs").resolve()
    logs.mkdir()
    transaction, follower, _ = database.open_with_runs(logs, restore=False)
    server.serve(serving.listen(0), logs, transaction, follower, opened)

run_command(main)
"""


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 143)])
def test_a_signal_before_the_server_runs(number: int, status: int, work: Path, environment: dict[str, str]) -> None:
    command = [sys.executable, "-c", SIGNALLED, str(int(number))]
    ended = subprocess.run(command, cwd=work, env=environment, capture_output=True, text=True, timeout=60)
    assert (ended.returncode, ended.stderr) == (status, "interrupted\n")
    assert not (work / "logs" / "dashboard.address").exists()
