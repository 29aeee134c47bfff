"""A real HTTP server on loopback that answers like a provider, with faults by plan.

It speaks HTTP/1.1 by hand, so that it can also break it: send half a body, drip it
byte by byte, lie about its length, or reset the connection.
"""

import json
import math
import socket
import struct
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Final, Protocol, TypeAlias

import trio

from dspex.providers import ToolCall, Usage

_MAX_HEAD_BYTES: Final = 65_536
_REASONS: Final = {200: "OK", 401: "Unauthorized", 404: "Not Found", 429: "Slow Down"}
_DEFAULT_USAGE: Final = Usage(10, 5)


class ConnectionLostError(Exception):
    """The client went away."""


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
        """Wait; ends with ConnectionLostError as soon as the client goes away."""
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
    """A good answer: this text (for each of `n` choices) after `delay` seconds."""

    text: str = "ok"
    tool_calls: tuple[ToolCall, ...] = ()
    usage: Usage = _DEFAULT_USAGE
    finish_reason: str | None = None
    refusal: str | None = None
    delay: float = 0.0

    async def run(self, request: ProviderRequest, exchange: Exchange) -> bool:
        """Answer in the API that the path names."""
        await exchange.sleep(self.delay)
        await exchange.send(http_reply(200, json.dumps(self.body(request)).encode()))
        return True

    def body(self, request: ProviderRequest) -> dict[str, Any]:  # Any: JSON
        """Give the answer as a chat completion."""
        message: dict[str, Any] = {  # Any: JSON
            "role": "assistant",
            "content": self.text,
            "refusal": self.refusal,
        }
        if self.tool_calls:
            message["tool_calls"] = [
                {
                    "id": call.id,
                    "type": "function",
                    "function": {"name": call.name, "arguments": call.arguments},
                }
                for call in self.tool_calls
            ]
        default_reason = "tool_calls" if self.tool_calls else "stop"
        choice = {
            "message": message,
            "finish_reason": self.finish_reason or default_reason,
        }
        usage = self.usage
        asked = request.json
        return {
            "id": "chatcmpl-1",
            "object": "chat.completion",
            "created": 1,
            "model": asked.get("model", "fake"),
            "choices": [choice | {"index": i} for i in range(asked.get("n", 1))],
            "usage": {
                "prompt_tokens": usage.input_tokens,
                "completion_tokens": usage.output_tokens,
                "total_tokens": usage.total_tokens,
                "prompt_tokens_details": {"cached_tokens": usage.cached_tokens},
                "completion_tokens_details": {
                    "reasoning_tokens": usage.reasoning_tokens
                },
            },
        }


@dataclass(frozen=True, slots=True)
class Fail:
    """An error status with the provider's error body."""

    status: int
    message: str = "it failed"
    code: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict[str, str])

    async def run(self, request: ProviderRequest, exchange: Exchange) -> bool:
        """Answer with the status."""
        error = {"message": self.message, "type": "error", "code": self.code}
        body = json.dumps({"error": error}).encode()
        await exchange.send(http_reply(self.status, body, self.headers))
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
        """Send the part, then reset."""
        reply = http_reply(200, json.dumps(Answer().body(request)).encode())
        if self.after:
            await exchange.send(reply[: self.after])
        exchange.reset()
        return False


@dataclass(frozen=True, slots=True)
class Truncate:
    """An orderly close in the middle of the body."""

    missing: int = 20

    async def run(self, request: ProviderRequest, exchange: Exchange) -> bool:
        """Send all but the last bytes, then close."""
        reply = http_reply(200, json.dumps(Answer().body(request)).encode())
        await exchange.send(reply[: -self.missing])
        return False


Plan: TypeAlias = Callable[[ProviderRequest], Action] | Iterable[Action]


class FakeProvider:
    """A running fake provider; made by `open_fake_provider`.

    `requests` holds every request in order of arrival. `open_connections` and
    `disconnects` (clients that left before their answer) tell about leaks.
    """

    def __init__(self, plan: Plan, host: str, port: int) -> None:
        self.url = f"http://{host}:{port}/v1"
        self.requests: list[ProviderRequest] = []
        self.open_connections = 0
        self.connections = 0
        self.disconnects = 0
        self.plan(plan)

    def plan(self, plan: Plan) -> None:
        """Set what happens from now on: a function, or actions one after another.

        When the actions are used up, every further request gets `Answer()`.
        """
        if callable(plan):
            self._choose = plan
        else:
            actions = iter(plan)

            def choose(request: ProviderRequest) -> Action:
                return next(actions, Answer())

            self._choose = choose

    async def serve(self, stream: trio.SocketStream) -> None:
        """Serve one connection."""
        self.connections += 1
        self.open_connections += 1
        connection = _Connection(stream, self.connections)
        try:
            while (request := await connection.read_request()) is not None:
                self.requests.append(request)
                try:
                    keep = await self._choose(request).run(request, connection)
                except ConnectionLostError:
                    self.disconnects += 1
                    return
                if not keep:
                    return
        finally:
            self.open_connections -= 1
            await trio.aclose_forcefully(stream)


@asynccontextmanager
async def open_fake_provider(
    plan: Plan = (), *, host: str = "127.0.0.1", port: int = 0
) -> AsyncGenerator[FakeProvider]:
    """Serve on loopback for the length of an `async with` block.

    `server.url` is the base URL to give to a client.
    """
    listeners = await trio.open_tcp_listeners(port, host=host)
    port = listeners[0].socket.getsockname()[1]
    server = FakeProvider(plan, host, port)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, server.serve, listeners)
        try:
            yield server
        finally:
            nursery.cancel_scope.cancel()


def http_reply(
    status: int, body: bytes, headers: Mapping[str, str] | None = None
) -> bytes:
    """Give a whole HTTP reply; a header of None's name can be overridden."""
    fields = {
        "content-type": "application/json",
        "content-length": str(len(body)),
        "x-request-id": "req_fake",
    } | {name.lower(): value for name, value in (headers or {}).items()}
    head = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    reason = _REASONS.get(status, "Status")
    return f"HTTP/1.1 {status} {reason}\r\n{head}\r\n".encode() + body


class _Connection:
    """Reads requests and writes what the actions say."""

    def __init__(self, stream: trio.SocketStream, number: int) -> None:
        self._stream = stream
        self._number = number
        self._buffer = bytearray()

    async def read_request(self) -> ProviderRequest | None:
        """Give the next request; None when the client has closed."""
        while (end := self._buffer.find(b"\r\n\r\n")) < 0:
            if len(self._buffer) > _MAX_HEAD_BYTES or not await self._receive():
                return None
        lines = self._buffer[:end].decode("latin-1").split("\r\n")
        method, path, _ = lines[0].split(" ", 2)
        headers: dict[str, str] = {}
        for line in lines[1:]:
            name, _, value = line.partition(":")
            headers[name.strip().lower()] = value.strip()
        total = end + 4 + int(headers.get("content-length", "0"))
        while len(self._buffer) < total:
            if not await self._receive():
                return None
        body = bytes(self._buffer[end + 4 : total])
        del self._buffer[:total]
        return ProviderRequest(method, path, headers, body, self._number)

    async def sleep(self, seconds: float) -> None:
        """Wait; ends with ConnectionLostError as soon as the client goes away."""
        if seconds <= 0:
            return
        with trio.move_on_after(seconds):
            while await self._receive():
                pass
            raise ConnectionLostError

    async def send(self, data: bytes) -> None:
        """Send raw bytes."""
        try:
            await self._stream.send_all(data)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            raise ConnectionLostError from None

    def reset(self) -> None:
        """Close the connection with a TCP reset."""
        linger = struct.pack("ii", 1, 0)
        self._stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self._stream.socket.close()

    async def _receive(self) -> bool:
        try:
            data = await self._stream.receive_some(65_536)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            return False
        self._buffer += data
        return bool(data)
