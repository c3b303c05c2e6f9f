"""Serving an app on a port of this machine until a signal ends the process."""

import signal
import socket
import sys
from contextlib import AbstractContextManager
from types import FrameType

import uvicorn
from fastapi import FastAPI

from labml_bn.cli.errors import Terminated, UserError, reason
from labml_bn.dashboard.address import HOST
from labml_bn.dashboard.protocol import AT_ONCE, LimitedProtocol

#: Seconds in which responses are completed when the server ends.
_LAST_SECONDS = 3

#: The signals that end the server. SIGHUP is sent when its terminal is closed.
_ENDING = [signal.SIGINT, signal.SIGTERM, *([signal.SIGHUP] if hasattr(signal, "SIGHUP") else [])]


def listen(port: int) -> socket.socket:
    """A socket that listens on the port; 0 is any free port. Raises UserError if the port cannot be opened."""
    listener = socket.socket()
    if sys.platform != "win32":
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((HOST, port))
        listener.listen()
    except OSError as error:
        listener.close()
        raise UserError(f"cannot open port {port}: {reason(error)}; choose another with --port") from error
    return listener


def run(app: FastAPI, listener: socket.socket, meanwhile: AbstractContextManager[object]) -> None:
    """Serve the app, in the context `meanwhile`, until a signal ends the process: raise KeyboardInterrupt then."""
    config = uvicorn.Config(
        app,
        http=LimitedProtocol,
        ws="none",
        lifespan="off",
        backlog=AT_ONCE,
        log_level="critical",  # what a client does wrong is not reported on the terminal
        access_log=False,
        timeout_graceful_shutdown=_LAST_SECONDS,
    )
    server = uvicorn.Server(config)
    interrupts: list[KeyboardInterrupt] = []

    def end(number: int, frame: FrameType | None) -> None:
        # Not raised here: Python ignores an exception that a signal raises within a weak reference's callback.
        interrupts.append(KeyboardInterrupt() if number == signal.SIGINT else Terminated())
        server.should_exit = True

    # uvicorn's own handlers are in place while it runs. It raises the signal again when it has shut down.
    for number in _ENDING:
        if signal.getsignal(number) != signal.SIG_IGN:  # as with nohup
            signal.signal(number, end)
    with meanwhile:
        server.run(sockets=[listener])
    if interrupts:
        raise interrupts[0]
