"""Connections: hypercorn's, each of which may fail by itself, and ends in time.

Hypercorn ends its whole server for an error in the handling of one client (a websocket
with a request behind it is enough), and its end waits for whoever reads slowly.
"""

import socket
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, cast

import trio
from hypercorn.app_wrappers import ASGIWrapper
from hypercorn.config import Config
from hypercorn.events import Closed, Event
from hypercorn.trio.tcp_server import TCPServer
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.typing import ConnectionState
from starlette.types import ASGIApp

from dspex.runtime.log import get_logger
from dspex.runtime.reasons import describe

log = get_logger()


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

    # No coroutine of its own: it would stay as long as the client.
    def talk(stream: trio.SocketStream) -> Awaitable[None]:
        plain = cast("Any", stream)  # it is typed for TLS only
        return _Connection(wrapped, config, context, ConnectionState({}), plain).run()

    bound.listen(config.backlog)
    listener = trio.SocketListener(trio.socket.from_stdlib_socket(bound))
    async with trio.open_nursery() as talks:
        async with trio.open_nursery() as nursery:
            accept = partial(trio.serve_listeners, handler_nursery=talks)
            nursery.start_soon(accept, talk, [listener])
            task_status.started()
            await until()
            nursery.cancel_scope.cancel()
        await context.terminated.set()
        talks.cancel_scope.deadline = trio.current_time() + config.graceful_timeout


class _Connection(TCPServer):
    """One client."""

    async def run(self) -> None:
        """Answer what the client asks; an error ends this connection, and no other."""
        try:
            await super().run()
        except* Exception as errors:  # noqa: BLE001 - whatever the protocols raise
            log.warning("connection_failed", reason=describe(_first(errors)))

    async def protocol_send(self, event: Event) -> None:
        """Send; a client that has left meanwhile, or is being left, is no error."""
        try:
            await super().protocol_send(event)
        except trio.BusyResourceError:  # it is being closed
            await self.protocol.handle(Closed())

    async def _read_data(self) -> None:
        try:
            await super()._read_data()
        except trio.Cancelled:
            # Ends what is being sent, too.
            await trio.aclose_forcefully(self.stream)
            raise
        # The client has left; the connection would be kept as long as a silent one.
        await self.idle_task.stop()


def _first(group: BaseExceptionGroup[Exception]) -> Exception:
    error = group.exceptions[0]
    return _first(error) if isinstance(error, BaseExceptionGroup) else error
