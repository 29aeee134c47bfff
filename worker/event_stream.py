"""EventStream: server-sent events as an ASGI answer, light enough for thousands."""

from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Final

import trio
from starlette.types import Receive, Scope, Send

KEEP_ALIVE_SECONDS: Final = 15.0
KEEP_ALIVE: Final = b": still here\n\n"


def frame(data: bytes, *, id: int | None = None, event: str | None = None) -> bytes:
    """Give one event; `data` is one line."""
    head = b"" if id is None else b"id: %d\n" % id
    if event is not None:
        head += b"event: " + event.encode() + b"\n"
    return head + b"data: " + data + b"\n\n"


class EventStream:
    """Sends what `frames` gives, until it ends, the client leaves or `closing` is set.

    A comment goes out when `frames` gives an empty one, so that a client that is
    gone is noticed. `on_end` is called once.
    """

    def __init__(
        self,
        frames: AsyncGenerator[bytes],
        *,
        closing: trio.Event,
        on_end: Callable[[], object],
    ) -> None:
        self._frames = frames
        self._closing = closing
        self._on_end = on_end

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer the request."""
        try:
            headers = [
                (b"content-type", b"text/event-stream"),
                (b"cache-control", b"no-store"),
            ]
            start = {"type": "http.response.start", "status": 200, "headers": headers}
            await send(start)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._end_at, receive, nursery.cancel_scope)
                nursery.start_soon(self._end_when_closing, nursery.cancel_scope)
                async with aclosing(self._frames):
                    async for chunk in self._frames:
                        body = {"type": "http.response.body", "more_body": True}
                        await send({**body, "body": chunk or KEEP_ALIVE})
                nursery.cancel_scope.cancel()
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        finally:
            self._on_end()

    async def _end_when_closing(self, scope: trio.CancelScope) -> None:
        await self._closing.wait()
        scope.cancel()

    @staticmethod
    async def _end_at(receive: Receive, scope: trio.CancelScope) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        scope.cancel()
