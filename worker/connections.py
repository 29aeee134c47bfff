"""Connections: hypercorn's, each of which may fail by itself, and ends in time.

Hypercorn ends its whole server for an error in the handling of one client (a websocket
with a request behind it is enough), and its end waits for whoever reads slowly. What it
does around each request, a task that waits for the next one, a lock, and scopes, took a
quarter of the processor: here one task looks after all who are idle.
"""

import socket
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, Final, cast

import trio
from hypercorn.app_wrappers import ASGIWrapper
from hypercorn.config import Config
from hypercorn.events import Closed, Event, RawData
from hypercorn.trio.tcp_server import MAX_RECV, TCPServer
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.typing import ConnectionState
from starlette.types import ASGIApp

from dspex.runtime.log import get_logger
from dspex.runtime.reasons import describe

log = get_logger()

_LOOK_SECONDS: Final = 0.5
"""How often it is looked who was idle for too long."""


async def serve_clients(
    app: ASGIApp,
    config: Config,
    bound: socket.socket,
    *,
    until: Callable[[], Awaitable[object]],
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Answer who connects until `until` returns; then give clients time to leave.

    `bound` is closed here. A client that is being answered at the end has
    `config.graceful_timeout` more.
    """
    context = WorkerContext(None)
    wrapped = ASGIWrapper(cast("Any", app))  # its own ASGI types
    idle = _IdleClients(config.keep_alive_timeout)

    # No coroutine of its own: it would stay as long as the client.
    def talk(stream: trio.SocketStream) -> Awaitable[None]:
        return _Connection(wrapped, config, context, stream, idle).run()

    bound.listen(config.backlog)
    listener = trio.SocketListener(trio.socket.from_stdlib_socket(bound))
    async with trio.open_nursery() as talks:
        async with trio.open_nursery() as nursery:
            accept = partial(trio.serve_listeners, handler_nursery=talks)
            nursery.start_soon(accept, talk, [listener])
            nursery.start_soon(idle.look_after)
            task_status.started()
            await until()
            nursery.cancel_scope.cancel()
        await context.terminated.set()
        idle.end()
        talks.cancel_scope.deadline = trio.current_time() + config.graceful_timeout


class _IdleClients:
    """Those that nothing is being sent to, and since when; who was it longest is first.

    A client is idle until the head of its first request is there, and between two.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._since: dict[trio.SocketStream, float] = {}
        self._is_over = False

    def add(self, stream: trio.SocketStream) -> None:
        """Begin to count, anew if it was idle."""
        if self._is_over:
            stream.socket.close()
            return
        self._since.pop(stream, None)
        self._since[stream] = trio.current_time()

    def discard(self, stream: trio.SocketStream) -> None:
        """Count no more."""
        self._since.pop(stream, None)

    async def look_after(self) -> None:
        """Close the connections that were idle for too long, until cancelled."""
        while True:
            await trio.sleep(_LOOK_SECONDS)
            late = trio.current_time() - self._seconds
            for stream, since in list(self._since.items()):
                if since > late:
                    break
                self._close(stream)

    def end(self) -> None:
        """Close the connections that are idle, and those that will be."""
        self._is_over = True
        for stream in list(self._since):
            self._close(stream)

    def _close(self, stream: trio.SocketStream) -> None:
        del self._since[stream]
        # Its task is reading, and hears of that.
        stream.socket.close()


class _IdleClient:
    """What hypercorn tells of one client: it is idle, or not any more."""

    __slots__ = ("_clients", "_stream")

    def __init__(self, clients: _IdleClients, stream: trio.SocketStream) -> None:
        self._clients = clients
        self._stream = stream

    async def restart(self, *_: object) -> None:
        self._clients.add(self._stream)

    async def stop(self) -> None:
        self._clients.discard(self._stream)


class _Connection(TCPServer):
    """One client."""

    def __init__(
        self,
        app: ASGIWrapper,
        config: Config,
        context: WorkerContext,
        stream: trio.SocketStream,
        idle: _IdleClients,
    ) -> None:
        plain = cast("Any", stream)  # it is typed for TLS only
        super().__init__(app, config, context, ConnectionState({}), plain)
        self.idle_task = cast("Any", _IdleClient(idle, stream))
        self._head = b""

    async def run(self) -> None:
        """Answer what the client asks; an error ends this connection, and no other."""
        try:
            await super().run()
        except* Exception as errors:  # noqa: BLE001 - whatever the protocols raise
            log.warning("connection_failed", reason=describe(_first(errors)))
        finally:
            await self.idle_task.stop()

    async def protocol_send(self, event: Event) -> None:
        """Send; a client that has left meanwhile, or is being left, is no error."""
        if isinstance(event, RawData):
            head, self._head = self._head, b""
            if not head and _is_head_before_body(event.data):
                self._head = event.data
            elif data := head + event.data:
                await self._send(data)
            return
        try:
            await super().protocol_send(event)
        except trio.BusyResourceError:  # it is being closed
            await self.protocol.handle(Closed())

    async def _send(self, data: bytes) -> None:
        lock = self.send_lock
        if lock.locked():
            await lock.acquire()
        else:  # without a turn of the loop
            lock.acquire_nowait()
        try:
            # Half of it would be worse than none.
            with trio.CancelScope(shield=True):
                await self.stream.send_all(data)
        except (
            trio.BrokenResourceError,
            trio.BusyResourceError,
            trio.ClosedResourceError,
        ):
            await self.protocol.handle(Closed())
        finally:
            lock.release()

    async def _read_data(self) -> None:
        try:
            await self._read_until_left()
        except trio.Cancelled:
            # Ends what is being sent, too.
            await trio.aclose_forcefully(self.stream)
            raise
        # The client has left; the connection would be kept as long as a silent one.
        await self.idle_task.stop()
        await self.protocol.handle(Closed())

    async def _read_until_left(self) -> None:
        data = b"?"
        while data:
            try:
                data = bytes(await self.stream.receive_some(MAX_RECV))
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                return
            await self.protocol.handle(RawData(data))


def _is_head_before_body(data: bytes) -> bool:
    """Whether this is the head of an answer, whose body or end will follow at once."""
    return data.startswith(b"HTTP/1.1 ") and b"\r\ncontent-length: " in data


def _first(group: BaseExceptionGroup[Exception]) -> Exception:
    error = group.exceptions[0]
    return _first(error) if isinstance(error, BaseExceptionGroup) else error
