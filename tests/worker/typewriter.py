"""A model that writes its answer piece by piece."""

from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager

import trio

from dspex.providers import Delta, Message, Request, ResponseStream, TextDelta
from dspex.testing import ScriptedLM


class Typewriter(ScriptedLM):
    """Streams the script in pieces of `size` characters, one every `pace` seconds.

    `written` counts the pieces; with `stop_after` it writes so many and then waits for
    `go_on`.
    """

    def __init__(
        self, *texts: str, size: int = 4, pace: float = 0.0, stop_after: int = -1
    ) -> None:
        super().__init__(texts)
        self.size = size
        self.pace = pace
        self.written = 0
        self.stop_after = stop_after
        self.stopped = trio.Event()
        self.go_on = trio.Event()

    @asynccontextmanager
    async def stream(
        self,
        request: Request | str | Sequence[Message],
        *,
        timeout: float | None = None,
    ) -> AsyncGenerator[ResponseStream]:
        """Give the next line in pieces."""
        response = await self.complete(request, timeout=timeout)
        text = response.text
        pieces = iter(
            [text[at : at + self.size] for at in range(0, len(text), self.size)]
        )

        async def more() -> Sequence[Delta]:
            await trio.sleep(self.pace)
            if self.written == self.stop_after:
                self.stopped.set()
                await self.go_on.wait()
            piece = next(pieces, None)
            if piece is None:
                stream.complete(response)
                return ()
            self.written += 1
            return (TextDelta(piece),)

        stream = ResponseStream((), more)
        yield stream
