"""EventStream: server-sent events as an ASGI answer, light enough for thousands."""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Final

import trio
from starlette.types import Receive, Scope, Send

KEEP_ALIVE_SECONDS: Final = 15.0
KEEP_ALIVE: Final = b": still here\n\n"
STREAM: Final = "dspex.stream"
"""The key of a scope under which an answer waits for its router to return."""


def frame(data: bytes, *, id: int | None = None, event: str | None = None) -> bytes:
    """Give one event; `data` is one line."""
    head = b"" if id is None else b"id: %d\n" % id
    if event is not None:
        head += b"event: " + event.encode() + b"\n"
    return head + b"data: " + data + b"\n\n"


class EventStream:
    """Sends what `frames` gives, until it ends, the client leaves or it is ended.

    A comment goes out when `frames` gives an empty one, so that a client that is
    gone is noticed. `open_streams` has the scope of each stream that is open: who
    cancels it ends the stream in order.

    As an ASGI answer it only leaves itself in the scope: the guard sends it when the
    router has returned, whose frames would be more than half of what a client costs.
    """

    def __init__(
        self, frames: AsyncGenerator[bytes], *, open_streams: set[trio.CancelScope]
    ) -> None:
        self._frames = frames
        self._open_streams = open_streams
        self._scope = trio.CancelScope()
        open_streams.add(self._scope)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Be the answer to the request."""
        scope[STREAM] = self

    async def send(self, receive: Receive, send: Send) -> None:
        """Answer the request."""
        headers = [
            (b"content-type", b"text/event-stream"),
            (b"cache-control", b"no-store"),
        ]
        try:
            await send(
                {"type": "http.response.start", "status": 200, "headers": headers}
            )
            with self._scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._end_at, receive)
                    async with aclosing(self._frames):
                        async for chunk in self._frames:
                            body = {"type": "http.response.body", "more_body": True}
                            await send({**body, "body": chunk or KEEP_ALIVE})
                    nursery.cancel_scope.cancel()
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        finally:
            self._open_streams.discard(self._scope)

    async def _end_at(self, receive: Receive) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        self._scope.cancel()
