"""RunStream: the events of a run as an ASGI answer, for thousands of clients.

What a client costs is what waits for it. Here that is one task in one cancel scope: it
waits for the client to go, and is woken by cancelling that wait. Keep-alives and looks
into the store come from one task for all streams.
"""

from typing import Final

import msgspec
import trio
from starlette.types import Receive, Scope, Send

from dspex.worker.durable import poll_seconds
from dspex.worker.event_cursor import DELTA, EventCursor
from dspex.worker.event_stream import (
    KEEP_ALIVE,
    KEEP_ALIVE_SECONDS,
    STREAM,
    frame,
)
from dspex.worker.run_record import RunEvent
from dspex.worker.runs import RunTable

_TICK_SECONDS: Final = 0.25
_HEADERS: Final = (
    (b"content-type", b"text/event-stream"),
    (b"cache-control", b"no-store"),
)


class RunStream:
    """Sends a run's events until it is over, the client leaves, or it is ended."""

    __slots__ = (
        "_cursor",
        "_is_ended",
        "_is_woken",
        "_looked_at",
        "_silent_since",
        "_wait",
        "_was_here",
        "streams",
    )

    def __init__(self, cursor: EventCursor, streams: "Streams") -> None:
        self.streams = streams
        self._cursor = cursor
        self._wait: trio.CancelScope | None = None
        self._is_woken = False
        self._is_ended = False
        self._was_here = True
        self._silent_since = self._looked_at = trio.current_time()
        streams.open.add(self)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Be the answer to the request; the guard sends it."""
        scope[STREAM] = self

    async def send(self, receive: Receive, send: Send) -> None:
        """Answer the request."""
        table, run = self.streams.table, self._cursor.run
        try:
            await send(
                {"type": "http.response.start", "status": 200, "headers": _HEADERS}
            )
            while not self._is_ended and (chunk := await self._next()) is not None:
                if chunk:
                    body = {"type": "http.response.body", "more_body": True}
                    await send({**body, "body": chunk})
                    continue
                # Until woken, or the client has left; here, for a frame more would
                # stay as long as the stream.
                table.follow(run, self)
                with trio.CancelScope() as scope:
                    self._wait = scope
                    if self._is_woken:
                        scope.cancel()
                    while (await receive())["type"] != "http.disconnect":
                        pass
                    return
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        finally:
            table.unfollow(run, self)
            self.streams.open.discard(self)

    async def _next(self) -> bytes | None:
        self._is_woken = False
        self._was_here = self._cursor.is_here
        self._looked_at = trio.current_time()
        events = await self._cursor.take()
        if events is None:
            return None
        now = trio.current_time()
        if events:
            self._silent_since = now
            return b"".join(map(_frame, events))
        if now - self._silent_since >= KEEP_ALIVE_SECONDS:
            self._silent_since = now
            return KEEP_ALIVE
        return b""

    def wake(self) -> None:
        """Look again: something has happened in the run."""
        self._is_woken = True
        if self._wait is not None:
            self._wait.cancel()

    def tick(self, now: float, *, poll: float) -> bool:
        """Wake it if nobody else does, or if it was silent for long.

        Whether nobody else does: the run waits, or another process has it.
        """
        is_here = self._cursor.is_here
        is_due = now - self._silent_since >= KEEP_ALIVE_SECONDS
        if not is_here:
            is_due |= now - self._looked_at >= poll
        # A run that has come here tells of itself from the next look on.
        if is_due or is_here is not self._was_here:
            self.wake()
        return not is_here

    def end(self) -> None:
        """End it in order."""
        self._is_ended = True
        self.wake()


class Streams:
    """The streams of runs that are open."""

    def __init__(self, table: RunTable) -> None:
        self.table = table
        self.open: set[RunStream] = set()

    async def tick(self) -> None:
        """Wake the streams that nobody else wakes, until cancelled."""
        poll = 0.0
        while True:
            await trio.sleep(_TICK_SECONDS)
            now = trio.current_time()
            elsewhere = sum(stream.tick(now, poll=poll) for stream in self.open)
            # Those that looked after a tick are due at one, not a little later.
            poll = poll_seconds(elsewhere) - _TICK_SECONDS / 2

    def end(self) -> None:
        """End all of them."""
        for stream in self.open:
            stream.end()


def _frame(event: RunEvent) -> bytes:
    data = msgspec.json.encode(event.to_json())
    # To go on from a delta would be to go on from the event before it.
    id = None if event.kind == DELTA else event.seq
    return frame(data, id=id, event=event.kind)
