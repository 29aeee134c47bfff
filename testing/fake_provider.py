"""A real HTTP server on loopback that answers like a provider, with faults by plan.

It speaks HTTP/1.1 by hand, so that it can also break it: send half a body, drip it
byte by byte, lie about its length, or reset the connection.
"""

import socket
import ssl
import struct
from collections.abc import AsyncGenerator, Callable, Iterable
from contextlib import asynccontextmanager
from typing import Any, Final, TypeAlias

import trio

from dspex.testing.fake_actions import Action, Answer, ProviderRequest

Plan: TypeAlias = Callable[[ProviderRequest], Action] | Iterable[Action]

_MAX_HEAD_BYTES: Final = 65_536


class ConnectionLostError(Exception):
    """The client went away."""


class FakeProvider:
    """A running fake provider; made by `open_fake_provider`.

    `requests` holds every request in order of arrival. `open_connections` and
    `disconnects` (clients that left before their answer) tell about leaks.
    """

    def __init__(self, plan: Plan, url: str) -> None:
        self.url = url
        self.requests: list[ProviderRequest] = []
        self.connections = 0
        self.open_connections = 0
        self.most_open_connections = 0
        self.disconnects = 0
        self._streams: set[trio.SocketStream] = set()
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

    def close_connections(self) -> None:
        """Close every connection from the server's side, as an idle timeout would."""
        for stream in self._streams:
            stream.socket.shutdown(socket.SHUT_RDWR)

    async def serve(
        self, tcp: trio.SocketStream, *, context: ssl.SSLContext | None = None
    ) -> None:
        """Serve one connection."""
        self.connections += 1
        self.open_connections += 1
        self.most_open_connections = max(
            self.most_open_connections, self.open_connections
        )
        self._streams.add(tcp)
        stream: trio.SocketStream | trio.SSLStream[trio.SocketStream] = tcp
        if context is not None:
            stream = trio.SSLStream(
                tcp, context, server_side=True, https_compatible=True
            )
        connection = _Connection(stream, tcp, self.connections)
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
            self._streams.discard(tcp)
            await trio.aclose_forcefully(tcp)


@asynccontextmanager
async def open_fake_provider(
    plan: Plan = (),
    *,
    port: int = 0,
    ssl_context: ssl.SSLContext | None = None,
) -> AsyncGenerator[FakeProvider]:
    """Serve on loopback for the length of an `async with` block.

    `server.url` is the base URL to give to a client; it is https with an
    `ssl_context`.
    """
    listeners = await trio.open_tcp_listeners(port, host="127.0.0.1", backlog=4096)
    port = listeners[0].socket.getsockname()[1]
    scheme = "http" if ssl_context is None else "https"
    server = FakeProvider(plan, f"{scheme}://127.0.0.1:{port}/v1")

    async def serve(stream: trio.SocketStream) -> None:
        await server.serve(stream, context=ssl_context)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, serve, listeners)
        try:
            yield server
        finally:
            nursery.cancel_scope.cancel()


class _Connection:
    """Reads requests and writes what the actions say."""

    def __init__(
        self,
        stream: trio.SocketStream | trio.SSLStream[Any],
        tcp: trio.SocketStream,
        number: int,
    ) -> None:
        self._stream = stream
        self._tcp = tcp
        self._number = number
        self._buffer = bytearray()

    async def read_request(self) -> ProviderRequest | None:
        """Give the next request; None when the client has closed."""
        while (end := self._buffer.find(b"\r\n\r\n")) < 0:
            if len(self._buffer) > _MAX_HEAD_BYTES or not await self._receive():
                return None
            if not self._buffer[:1].isalpha():
                return None  # TLS, or something else that is not HTTP
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
        self._tcp.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self._tcp.socket.close()

    async def _receive(self) -> bool:
        try:
            data = await self._stream.receive_some(65_536)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            return False
        self._buffer += data
        return bool(data)
