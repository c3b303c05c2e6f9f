"""How long and how many: what a client can hold of the dashboard's connections, before it has sent a request.

uvicorn limits neither how long a request may take to arrive nor how many connections may wait, so that a few thousand
of them would keep all others out.
"""

import asyncio

from uvicorn.protocols.http.h11_impl import H11Protocol

#: Seconds that a connection may be open without a request to answer; what arrives meanwhile makes no difference.
SECONDS = 5.0

#: If more connections are open, the one that has waited longest for a request is closed. So many are accepted at once,
#: few enough that one whose request is already there is not the one that is closed.
MOST, AT_ONCE = 150, 50


class LimitedProtocol(H11Protocol):
    """A connection that is closed if no complete head of a request has arrived in time."""

    _timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start the time."""
        super().connection_made(transport)
        self._limit()
        if len(self.connections) > MOST:
            waiting = [one for one in self.connections if isinstance(one, LimitedProtocol) and one._timer is not None]
            min(waiting, key=lambda one: one._timer.when()).close()  # type: ignore[union-attr]

    def data_received(self, data: bytes) -> None:
        """Stop the time if a request is there."""
        super().data_received(data)
        self._limit()

    def on_response_complete(self) -> None:
        """Start the time for the next request; what is left of this one counts for nothing."""
        super().on_response_complete()
        self._limit()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        super().connection_lost(exc)
        self._stop_timer()

    def close(self) -> None:
        """Close the connection."""
        self._stop_timer()
        self.transport.close()

    def _limit(self) -> None:
        is_waiting = (self.cycle is None or self.cycle.response_complete) and not self.transport.is_closing()
        if is_waiting and self._timer is None:
            self._timer = self.loop.call_later(SECONDS, self.close)
        elif not is_waiting:
            self._stop_timer()

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
