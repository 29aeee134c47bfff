"""Connections: the worker's sockets, between trio and hypercorn's HTTP.

Hypercorn's own connection starts and cancels a task around each request, to end a
silent client, and writes an answer in three pieces: together a tenth of what the worker
takes for a small run. Here one task looks after all silent clients, and an answer that
is there as a whole goes out as a whole.
"""

import math
import socket
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Final, cast

import trio
from hypercorn.config import Config
from hypercorn.events import Closed, Event, RawData, Updated
from hypercorn.protocol import ProtocolWrapper
from hypercorn.trio.task_group import TaskGroup
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.typing import AppWrapper, ConnectionState
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_CHUNK_BYTES: Final = 65_536
_CHUNK_SECONDS: Final = 10.0
"""How long a client may take to read a chunk; who takes longer is gone."""

_LOOKS_PER_TIMEOUT: Final = 10
# Busy: while it is being closed.
_GONE: Final = (
    trio.BrokenResourceError,
    trio.BusyResourceError,
    trio.ClosedResourceError,
)


async def serve_clients(
    app: ASGIApp,
    config: Config,
    bound: socket.socket,
    *,
    until: Callable[[], Awaitable[object]],
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Answer who connects until `until` returns; then give clients time to leave.

    `bound` is closed here. A client that asks for nothing for as long as
    `config.keep_alive_timeout` is left, one that is being answered when it ends has
    `config.graceful_timeout`.
    """
    context = WorkerContext(None)
    clients: set[_Connection] = set()

    async def talk(stream: trio.SocketStream) -> None:
        connection = _Connection(stream)
        clients.add(connection)
        try:
            await connection.run(app, config, context)
        finally:
            clients.discard(connection)

    async def leave_silent(seconds: float) -> None:
        for connection in list(clients):
            await connection.leave_if_silent(seconds)

    async def look_after() -> None:
        seconds = config.keep_alive_timeout
        while True:
            await trio.sleep(seconds / _LOOKS_PER_TIMEOUT)
            await leave_silent(seconds)

    bound.listen(config.backlog)
    listener = trio.SocketListener(trio.socket.from_stdlib_socket(bound))
    async with trio.open_nursery() as talks:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(look_after)
            nursery.start_soon(_accept, talk, listener, talks)
            task_status.started()
            await until()
            nursery.cancel_scope.cancel()
        await context.terminated.set()
        talks.cancel_scope.deadline = trio.current_time() + config.graceful_timeout
        await leave_silent(0.0)


async def _accept(
    talk: Callable[[trio.SocketStream], Awaitable[object]],
    listener: trio.SocketListener,
    talks: trio.Nursery,
) -> None:
    async with listener:
        await trio.serve_listeners(talk, [listener], handler_nursery=talks)


class _Connection:
    """One client: what it sends goes to hypercorn, what that says to the client."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self._stream = stream
        self._unsent: list[bytes] = []
        self._is_held = False
        self._is_writing = False
        self._is_closed = False
        # Since when it has asked for nothing; inf while it is being answered.
        self._silent_since = trio.current_time()

    async def run(self, app: ASGIApp, config: Config, context: WorkerContext) -> None:
        """Answer what the client asks, until one of the two has left."""
        self._app = app
        own = self._stream.socket
        try:
            server, client = own.getsockname()[:2], own.getpeername()[:2]
        except OSError:
            server = client = None  # it has left already
        try:
            async with TaskGroup() as tasks:
                self._protocol = ProtocolWrapper(
                    cast("AppWrapper", self._answer),  # its own ASGI types
                    config,
                    context,
                    tasks,
                    ConnectionState({}),
                    False,
                    client,
                    server,
                    self._send,
                )
                await self._protocol.initiate()
                await self._read()
        finally:
            await self._close()

    async def leave_if_silent(self, seconds: float) -> None:
        """Close the connection if it has not been used for so long."""
        silent = trio.current_time() - self._silent_since
        if silent >= seconds and not self._is_writing:
            await self._protocol.handle(Closed())
            await self._stream.aclose()

    async def _read(self) -> None:
        with suppress(*_GONE):
            while data := bytes(await self._stream.receive_some(_CHUNK_BYTES)):
                await self._protocol.handle(RawData(data))
            await self._protocol.handle(RawData(b""))
        await self._protocol.handle(Closed())

    async def _answer(
        self, scope: Scope, receive: Receive, send: Send, *_: object
    ) -> None:
        """Have the app answer; the head goes out with what follows it."""
        is_alone = scope["http_version"] in ("1.0", "1.1")
        head: Message | None = None

        async def held(message: Message) -> None:
            nonlocal head
            if message["type"] == "http.response.start":
                head = message
                return
            first, head = head, None
            # Of HTTP/2 others may have to be heard for this one to go on.
            self._is_held = is_alone
            try:
                if first is not None:
                    await send(first)
                await send(message)
            finally:
                self._is_held = False
            await self._flush()

        await self._app(scope, receive, held)

    async def _send(self, event: Event) -> None:
        """Do what hypercorn wants: send, close, or know whether it is idle."""
        if isinstance(event, RawData):
            if not self._is_closed:
                self._unsent.append(event.data)
            if not self._is_held:
                await self._flush()
        elif isinstance(event, Updated):
            self._silent_since = trio.current_time() if event.idle else math.inf
        elif isinstance(event, Closed):
            await self._flush()
            await self._close()
            await self._protocol.handle(Closed())

    async def _flush(self) -> None:
        if self._is_writing or self._is_closed:
            return  # who writes takes it along
        self._is_writing = True
        try:
            while data := b"".join(self._unsent):
                self._unsent.clear()
                for start in range(0, len(data), _CHUNK_BYTES):
                    # Half a chunk would spoil what comes after.
                    with trio.move_on_after(_CHUNK_SECONDS, shield=True) as scope:
                        await self._stream.send_all(data[start : start + _CHUNK_BYTES])
                    if scope.cancelled_caught:
                        raise trio.BrokenResourceError
        except _GONE:
            self._is_closed = True
            await self._protocol.handle(Closed())
            await trio.aclose_forcefully(self._stream)
        finally:
            self._is_writing = False
        if self._silent_since < math.inf:
            self._silent_since = trio.current_time()

    async def _close(self) -> None:
        self._is_closed = True
        with suppress(*_GONE):
            await self._stream.send_eof()
        await self._stream.aclose()
