"""Connections: HTTP/1.1 between the worker's sockets and its ASGI app, by h11.

A client is one task, which reads a request, has the app answer it, and reads the next.
Nothing is read while the app has not asked for it, so what a client sends ahead waits
in its socket. One more task looks after all that are silent.
"""

import math
import socket
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Final
from urllib.parse import unquote
from wsgiref.handlers import format_date_time

import h11
import trio
from starlette.types import ASGIApp, Message

_CHUNK_BYTES: Final = 65_536
_CHUNK_SECONDS: Final = 10.0
"""How long a client may take to read a chunk; who takes longer is gone."""

_BACKLOG: Final = 4_096
_MAX_HEAD_BYTES: Final = 16_384
_LOOKS_PER_TIMEOUT: Final = 10
_LINGER_SECONDS: Final = 1.0
_NO_BODY: Final = frozenset({204, 304})
# Busy: while it is being closed.
_GONE: Final = (
    trio.BrokenResourceError,
    trio.BusyResourceError,
    trio.ClosedResourceError,
)


async def serve_clients(
    app: ASGIApp,
    bound: socket.socket,
    *,
    until: Callable[[], Awaitable[object]],
    silent_seconds: float = 5.0,
    graceful_seconds: float = 3.0,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Answer who connects until `until` returns; then give clients time to leave.

    `bound` is closed here. A client that asks for nothing for `silent_seconds` is left;
    one that is being answered at the end has `graceful_seconds` more.
    """
    clients: set[_Connection] = set()
    is_ending = False

    async def talk(stream: trio.SocketStream) -> None:
        connection = _Connection(stream, app)
        clients.add(connection)
        try:
            await connection.run(lambda: is_ending)
        finally:
            clients.discard(connection)

    async def leave_silent(seconds: float) -> None:
        for connection in list(clients):
            await connection.leave_if_silent(seconds)

    async def look_after() -> None:
        while True:
            await trio.sleep(silent_seconds / _LOOKS_PER_TIMEOUT)
            await leave_silent(silent_seconds)

    bound.listen(_BACKLOG)
    listener = trio.SocketListener(trio.socket.from_stdlib_socket(bound))
    async with trio.open_nursery() as talks:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(look_after)
            nursery.start_soon(_accept, talk, listener, talks)
            task_status.started()
            await until()
            nursery.cancel_scope.cancel()
        is_ending = True
        talks.cancel_scope.deadline = trio.current_time() + graceful_seconds
        await leave_silent(0.0)


async def _accept(
    talk: Callable[[trio.SocketStream], Awaitable[object]],
    listener: trio.SocketListener,
    talks: trio.Nursery,
) -> None:
    async with listener:
        await trio.serve_listeners(talk, [listener], handler_nursery=talks)


class _Connection:
    """One client."""

    def __init__(self, stream: trio.SocketStream, app: ASGIApp) -> None:
        self._stream = stream
        self._app = app
        self._http = h11.Connection(
            h11.SERVER, max_incomplete_event_size=_MAX_HEAD_BYTES
        )
        # Since when it has asked for nothing; inf while it is being answered.
        self._silent_since = trio.current_time()
        own = stream.socket
        self.client = self.server = None
        with suppress(OSError):  # it has left already
            self.server, self.client = own.getsockname()[:2], own.getpeername()[:2]

    async def run(self, is_ending: Callable[[], bool]) -> None:
        """Answer what the client asks, until one of the two has left."""
        try:
            while not is_ending():
                self._silent_since = trio.current_time()
                request = await self._next_request()
                if request is None:
                    break
                self._silent_since = math.inf
                await _Exchange(self, self._http, self._app, request).run()
                if self._http.states != {h11.CLIENT: h11.DONE, h11.SERVER: h11.DONE}:
                    break
                self._http.start_next_cycle()
            await self._leave()
        except h11.RemoteProtocolError as error:
            with suppress(*_GONE):
                await self.refuse(error.error_status_hint)
                await self._leave()
        except _GONE:
            pass
        finally:
            await trio.aclose_forcefully(self._stream)

    async def leave_if_silent(self, seconds: float) -> None:
        """Close the connection if it has not been used for so long."""
        if trio.current_time() - self._silent_since >= seconds:
            await trio.aclose_forcefully(self._stream)

    async def _next_request(self) -> h11.Request | None:
        while (event := self._http.next_event()) is h11.NEED_DATA:
            await self.read()
        return event if isinstance(event, h11.Request) else None

    async def read(self) -> bytes:
        """Hand on what the client sends next; nothing if it has left."""
        data = bytes(await self._stream.receive_some(_CHUNK_BYTES))
        self._http.receive_data(data)
        return data

    async def send(self, *events: h11.Event) -> None:
        """Send it all, also when cancelled: a part would spoil what comes after."""
        data = b"".join([self._http.send(event) or b"" for event in events])
        for start in range(0, len(data), _CHUNK_BYTES):
            with trio.move_on_after(_CHUNK_SECONDS, shield=True) as scope:
                await self._stream.send_all(data[start : start + _CHUNK_BYTES])
            if scope.cancelled_caught:
                await trio.aclose_forcefully(self._stream)
                raise trio.BrokenResourceError

    async def refuse(self, status: int) -> None:
        """Answer what cannot be answered otherwise."""
        if self._http.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            headers = [(b"content-length", b"0"), (b"connection", b"close"), _date()]
            head = h11.Response(status_code=status, headers=headers)
            await self.send(head, h11.EndOfMessage())

    async def _leave(self) -> None:
        """Close; what is left unread would take the answer from the client."""
        await self._stream.send_eof()
        with trio.move_on_after(_LINGER_SECONDS):
            while await self._stream.receive_some(_CHUNK_BYTES):
                pass


class _Exchange:
    """One request and its answer, as the app sees them."""

    def __init__(
        self,
        connection: _Connection,
        http: h11.Connection,
        app: ASGIApp,
        request: h11.Request,
    ) -> None:
        self._connection = connection
        self._http = http
        self._app = app
        self._request = request
        self._is_read = False
        self._has_body = True
        self._fault: int | None = None
        # It goes out with what follows it.
        self._head: Message | None = None

    async def run(self) -> None:
        """Have the app answer; what it leaves out is an error."""
        request = self._request
        raw, _, query = request.target.partition(b"?")
        scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": request.http_version.decode(),
            "method": request.method.decode(),
            "scheme": "http",
            "path": unquote(raw.decode("latin-1")),
            "raw_path": raw,
            "query_string": query,
            "root_path": "",
            "headers": list(request.headers),
            "client": self._connection.client,
            "server": self._connection.server,
        }
        await self._app(scope, self._receive, self._send)
        await self._connection.refuse(self._fault or 500)
        with suppress(h11.RemoteProtocolError):
            # What has come anyway is read, so that the client can go on.
            while not self._is_read and self._http.next_event() is not h11.NEED_DATA:
                self._is_read = self._http.their_state is not h11.SEND_BODY

    async def _receive(self) -> Message:
        if self._is_read:
            return await self._wait_left()
        http = self._http
        parts: list[bytes] = []
        try:
            while True:
                event = http.next_event()
                if isinstance(event, h11.Data):
                    parts.append(bytes(event.data))
                elif event is not h11.NEED_DATA:
                    self._is_read = True
                    return {"type": "http.request", "body": b"".join(parts)}
                elif parts:
                    body = b"".join(parts)
                    return {"type": "http.request", "body": body, "more_body": True}
                else:
                    if http.they_are_waiting_for_100_continue:
                        go_on = h11.InformationalResponse(status_code=100, headers=[])
                        await self._connection.send(go_on)
                    await self._connection.read()
        except h11.RemoteProtocolError as error:
            self._fault, self._is_read = error.error_status_hint, True
        except _GONE:
            self._is_read = True
        return {"type": "http.disconnect"}

    async def _wait_left(self) -> Message:
        ahead = 0
        with suppress(*_GONE):
            while self._fault is None and (data := await self._connection.read()):
                ahead += len(data)
                if ahead > _CHUNK_BYTES:
                    await trio.sleep_forever()
        return {"type": "http.disconnect"}

    async def _send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._head = message
            return
        out: list[h11.Event] = []
        head, self._head = self._head, None
        if head is not None:
            self._has_body = (
                self._request.method != b"HEAD" and head["status"] not in _NO_BODY
            )
            headers = [*head.get("headers", ()), _date()]
            out.append(h11.Response(status_code=head["status"], headers=headers))
        if (body := message.get("body", b"")) and self._has_body:
            out.append(h11.Data(data=body))
        if not message.get("more_body", False):
            out.append(h11.EndOfMessage())
        with suppress(*_GONE):
            await self._connection.send(*out)


def _date() -> tuple[bytes, bytes]:
    return (b"date", format_date_time(time.time()).encode())
