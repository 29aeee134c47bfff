"""What the fake provider can do with a request: answer well, or badly in many ways."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from dspex.providers import ToolCall, Usage
from dspex.testing.fake_bodies import (
    answer_body,
    answer_events,
    error_body,
    error_event,
)

_DEFAULT_USAGE: Final = Usage(10, 5)
_REASONS: Final = {200: "OK", 401: "Unauthorized", 404: "Not Found", 429: "Slow Down"}
_EVENT_STREAM: Final = {"content-type": "text/event-stream"}


@dataclass(frozen=True, slots=True)
class ProviderRequest:
    """One request as the server read it; header names are in lower case."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes
    connection: int

    @property
    def json(self) -> dict[str, Any]:  # Any: JSON
        """The body as JSON."""
        data: dict[str, Any] = json.loads(self.body)  # Any: JSON
        return data


class Exchange(Protocol):
    """What an action may do with the connection."""

    async def sleep(self, seconds: float) -> None:
        """Wait; ends the action as soon as the client goes away."""
        ...

    async def send(self, data: bytes) -> None:
        """Send raw bytes."""
        ...

    def reset(self) -> None:
        """Close the connection with a TCP reset."""
        ...


class Action(Protocol):
    """What the server does with one request."""

    async def run(self, request: ProviderRequest, exchange: Exchange) -> bool:
        """Answer; True keeps the connection open."""
        ...


@dataclass(frozen=True, slots=True)
class Answer:
    """A good answer: this text (for each of `n` choices) after `delay` seconds.

    A request with `stream` gets it in pieces of four characters, `pace` seconds
    between two events.
    """

    text: str = "ok"
    tool_calls: tuple[ToolCall, ...] = ()
    usage: Usage = _DEFAULT_USAGE
    finish_reason: str | None = None
    refusal: str | None = None
    delay: float = 0.0
    pace: float = 0.0
    headers: Mapping[str, str] = field(default_factory=dict[str, str])

    async def run(self, request: ProviderRequest, exchange: Exchange) -> bool:
        """Answer in the API that the path names."""
        await exchange.sleep(self.delay)
        for number, piece in enumerate(self.pieces(request)):
            if number and self.pace:
                await exchange.sleep(self.pace)
            await exchange.send(piece)
        return True

    def pieces(self, request: ProviderRequest) -> list[bytes]:
        """Give the whole reply: head and body, or head and events."""
        asked = request.json
        default_reason = "tool_calls" if self.tool_calls else "stop"
        body = answer_body(
            request.path,
            asked,
            text=self.text,
            tool_calls=self.tool_calls,
            usage=self.usage,
            finish_reason=self.finish_reason or default_reason,
            refusal=self.refusal,
        )
        if not asked.get("stream"):
            return [http_reply(200, json.dumps(body).encode(), self.headers)]
        events = answer_events(request.path, body)
        return [stream_head(self.headers), *map(http_chunk, events), LAST_CHUNK]


_OK: Final = Answer()


@dataclass(frozen=True, slots=True)
class Fail:
    """An error status with the provider's error body."""

    status: int
    message: str = "it failed"
    code: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict[str, str])

    async def run(self, request: ProviderRequest, exchange: Exchange) -> bool:
        """Answer with the status."""
        body = error_body(request.path, self.status, self.message, self.code)
        reply = http_reply(self.status, json.dumps(body).encode(), self.headers)
        await exchange.send(reply)
        return True


@dataclass(frozen=True, slots=True)
class Raw:
    """Any body, well formed as HTTP."""

    body: bytes
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict[str, str])

    async def run(self, request: ProviderRequest, exchange: Exchange) -> bool:
        """Send the body."""
        await exchange.send(http_reply(self.status, self.body, self.headers))
        return True


@dataclass(frozen=True, slots=True)
class Hang:
    """No answer at all, until the client goes away."""

    async def run(self, request: ProviderRequest, exchange: Exchange) -> bool:
        """Wait for the client to go away."""
        await exchange.sleep(math.inf)
        return False


@dataclass(frozen=True, slots=True)
class Reset:
    """A TCP reset after the first `after` bytes of a good answer; 0: none of it."""

    after: int = 0

    async def run(self, request: ProviderRequest, exchange: Exchange) -> bool:
        """Send the part, wait until it is read, then reset."""
        if self.after:
            await exchange.send(b"".join(Answer().pieces(request))[: self.after])
            await exchange.sleep(0.02)  # a reset discards what was not read yet
        exchange.reset()
        return False


@dataclass(frozen=True, slots=True)
class Truncate:
    """An orderly close before the last `missing` bytes of a good answer."""

    missing: int = 20
    answer: Answer = _OK

    async def run(self, request: ProviderRequest, exchange: Exchange) -> bool:
        """Send all but the last bytes, then close."""
        await exchange.send(b"".join(self.answer.pieces(request))[: -self.missing])
        return False


@dataclass(frozen=True, slots=True)
class WrongLength:
    """A body shorter than its head, or its last chunk, says; then a close."""

    async def run(self, request: ProviderRequest, exchange: Exchange) -> bool:
        """Lie, then close."""
        pieces = Answer().pieces(request)
        if request.json.get("stream"):
            pieces[-1] = b"ffff\r\ndata: "
        else:
            body = pieces[0].split(b"\r\n\r\n", 1)[1]
            length = {"content-length": str(len(body) + 50)}
            pieces = [http_reply(200, body, length)]
        await exchange.send(b"".join(pieces))
        return False


@dataclass(frozen=True, slots=True)
class Drip:
    """A good answer, `size` bytes at a time with `pace` seconds between."""

    size: int = 1
    pace: float = 0.0
    answer: Answer = _OK

    async def run(self, request: ProviderRequest, exchange: Exchange) -> bool:
        """Send slowly."""
        reply = b"".join(self.answer.pieces(request))
        for at in range(0, len(reply), self.size):
            await exchange.send(reply[at : at + self.size])
            await exchange.sleep(self.pace)
        return True


@dataclass(frozen=True, slots=True)
class Huge:
    """A body of `size` bytes of JSON text, or one event of that size."""

    size: int

    async def run(self, request: ProviderRequest, exchange: Exchange) -> bool:
        """Send it in large pieces."""
        start = b'data: {"x": "' if request.json.get("stream") else b'{"x": "'
        headers = _EVENT_STREAM if request.json.get("stream") else {}
        length = {"content-length": str(self.size)}
        await exchange.send(http_reply(200, start, headers | length))
        left = self.size - len(start)
        block = b"x" * 262_144
        while left > 0:
            await exchange.send(block[:left])
            left -= len(block)
        return True


@dataclass(frozen=True, slots=True)
class FailInStream:
    """A stream that begins well, then tells an error instead of its end.

    `events` is how many good events come first.
    """

    status: int = 529
    message: str = "overloaded"
    events: int = 4

    async def run(self, request: ProviderRequest, exchange: Exchange) -> bool:
        """Send the beginning, then the error."""
        code = "overloaded_error" if self.status == 529 else None
        pieces = Answer("a long answer").pieces(request)[: self.events + 1]
        error = error_event(request.path, self.status, self.message, code)
        await exchange.send(b"".join([*pieces, http_chunk(error), LAST_CHUNK]))
        return True


LAST_CHUNK: Final = b"0\r\n\r\n"


def http_chunk(data: bytes) -> bytes:
    """Give one chunk of a chunked body."""
    return b"%x\r\n%s\r\n" % (len(data), data)


def stream_head(headers: Mapping[str, str] | None = None) -> bytes:
    """Give the head of a streamed reply."""
    fields = _EVENT_STREAM | {"transfer-encoding": "chunked"} | dict(headers or {})
    head = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    return f"HTTP/1.1 200 OK\r\n{head}\r\n".encode()


def http_reply(
    status: int, body: bytes, headers: Mapping[str, str] | None = None
) -> bytes:
    """Give a whole HTTP reply; `headers` come on top of its own, or instead."""
    fields = {
        "content-type": "application/json",
        "content-length": str(len(body)),
        "x-request-id": "req_fake",
    } | {name.lower(): value for name, value in (headers or {}).items()}
    head = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    reason = _REASONS.get(status, "Status")
    return f"HTTP/1.1 {status} {reason}\r\n{head}\r\n".encode() + body
