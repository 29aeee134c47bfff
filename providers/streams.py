"""An answer that is still being written: deltas now, the whole response at the end."""

from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Annotated, Protocol, TypeAlias, runtime_checkable

import msgspec

from dspex.providers.errors import UnsupportedError
from dspex.providers.lm import LM
from dspex.providers.messages import Choice, Message, Request, Response, Usage
from dspex.providers.sse import ServerEvent


@dataclass(frozen=True, slots=True)
class TextDelta:
    """More text of the choice with this number."""

    text: str
    choice: int = 0


@dataclass(frozen=True, slots=True)
class ToolCallDelta:
    """More of the choice's tool call with this number.

    The first delta of a call has its `id` and `name`; the JSON text of its arguments
    comes in pieces.
    """

    index: int
    arguments: str = ""
    id: str | None = None
    name: str | None = None
    choice: int = 0


TokenCount: TypeAlias = Annotated[int, msgspec.Meta(ge=0, le=2**53)]
"""Tokens, as a provider counts them; others than these are no answer."""

Delta: TypeAlias = TextDelta | ToolCallDelta


class Decoded(msgspec.Struct, frozen=True):
    """What a dialect reads out of one body, or out of a whole stream."""

    choices: tuple[Choice, ...]
    usage: Usage
    model: str
    id: str | None


class StreamFailedError(Exception):
    """The server sent an error instead of the next event."""

    def __init__(self, message: str, code: str | None) -> None:
        super().__init__(message)
        self.code = code


class StreamDecoder(Protocol):
    """Puts the events of one stream together, without I/O."""

    @property
    def is_complete(self) -> bool:
        """Whether the server has said that this was all."""
        ...

    def feed(self, event: ServerEvent) -> Sequence[Delta]:
        """Take an event and give what it adds.

        Raises:
            msgspec.ValidationError: it is not what the API promises.
            StreamFailedError: it is an error of the server.
        """
        ...

    def result(self) -> Decoded:
        """Give what has come so far."""
        ...


class ResponseStream:
    """Deltas in order of arrival; iterate it once, in one task.

    `response` is there when the iteration has ended by itself.
    """

    def __init__(
        self, first: Sequence[Delta], more: Callable[[], Awaitable[Sequence[Delta]]]
    ) -> None:
        self._pending = deque(first)
        self._more = more
        self._response: Response | None = None

    def __aiter__(self) -> "ResponseStream":
        return self

    async def __anext__(self) -> Delta:
        """Give the next delta.

        Raises:
            PartialResponseError: the answer broke off.
        """
        while not self._pending:
            deltas = await self._more()
            if not deltas:
                raise StopAsyncIteration
            self._pending.extend(deltas)
        return self._pending.popleft()

    async def read(self) -> Response:
        """Read to the end and give the whole response.

        Raises:
            PartialResponseError: the answer broke off.
        """
        async for _ in self:
            pass
        return self.response

    @property
    def response(self) -> Response:
        """The whole response, with its usage.

        Raises:
            RuntimeError: there are deltas left to read.
        """
        if self._response is None:
            raise RuntimeError("the response is whole when every delta was read")
        return self._response

    def complete(self, response: Response) -> None:
        """Set the whole response; for the client that feeds the stream."""
        self._response = response


def stream_of(response: Response) -> ResponseStream:
    """Give the stream of an answer that is there already."""
    deltas: list[Delta] = []
    for number, choice in enumerate(response.choices):
        if choice.text:
            deltas.append(TextDelta(choice.text, number))
        deltas.extend(
            ToolCallDelta(index, call.arguments, call.id, call.name, number)
            for index, call in enumerate(choice.tool_calls)
        )

    async def end() -> Sequence[Delta]:
        stream.complete(response)
        return ()

    stream = ResponseStream(deltas, end)
    return stream


def watched(
    stream: ResponseStream,
    *,
    on_delta: Callable[[Delta], None],
    on_end: Callable[[Response], Awaitable[None]],
) -> ResponseStream:
    """Give the same stream, and tell of its deltas and of its whole response."""

    async def more() -> Sequence[Delta]:
        async for delta in stream:
            on_delta(delta)
            return (delta,)
        await on_end(stream.response)
        seen.complete(stream.response)
        return ()

    seen = ResponseStream((), more)
    return seen


@runtime_checkable
class StreamingLM(LM, Protocol):
    """A model that can also show its answer while it writes it."""

    def stream(
        self,
        request: Request | str | Sequence[Message],
        *,
        timeout: float | None = None,
    ) -> AbstractAsyncContextManager[ResponseStream]:
        """Send one request and give the stream of its answer, once it has begun.

        Until the first delta a failure is retried; leaving the block early ends the
        call. `timeout` is the total until the last delta, in seconds.

        Raises:
            ProviderError: there is no answer; its subclass and attributes say why.
        """
        ...


def streaming(lm: LM) -> StreamingLM:
    """Give the model as one that streams.

    Raises:
        UnsupportedError: it has no streams.
    """
    if isinstance(lm, StreamingLM):
        return lm
    provider, _, model = lm.name.partition(":")
    raise UnsupportedError(
        "it cannot stream its answers",
        provider=provider,
        model=model,
        remedy="use complete()",
    )
