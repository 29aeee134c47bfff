"""The fork-server of a pool: whether it is there, and the processes it forks."""

import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import trio

from dspex.runtime.bridge.bridge import HostProcess
from dspex.runtime.bridge.fork_server import ForkServer
from dspex.runtime.bridge.pool_worker import is_stopped
from dspex.runtime.bridge.protocol import Limits
from dspex.runtime.reasons import KILL
from dspex.runtime.ref import ActorRef

_FORK_SECONDS: Final = 10.0


class PoolForks:
    """What a pool knows of its fork-server; a dead one is replaced by the pool."""

    def __init__(
        self,
        *,
        python: str | None,
        search_path: Sequence[str | Path],
        limits: Limits,
        start_timeout: float,
    ) -> None:
        self.ref: ActorRef[ForkServer] | None = None
        self._python = python
        self._search_path = search_path
        self._limits = limits
        self._start_timeout = start_timeout
        self._ready = trio.Event()
        self._server: ForkServer | None = None
        self._stopped_since: float | None = None

    def make(self) -> ForkServer:
        """Give the actor, not started."""
        return ForkServer(
            python=self._python,
            search_path=self._search_path,
            start_timeout=self._start_timeout,
        )

    def set(self, ref: ActorRef[ForkServer], server: ForkServer) -> None:
        """Take note that it runs."""
        self.ref = ref
        self._server = server
        self._ready.set()

    def resume(self, seconds: float, now: float) -> bool:
        """Let the server go on if a signal has had it stopped for so long.

        Whether it had: to end it would end all that it has forked.
        """
        server = self._server if self._ready.is_set() else None
        if server is None or not is_stopped(server.child.pid):
            self._stopped_since = None
            return False
        if self._stopped_since is None:
            self._stopped_since = now
        if now - self._stopped_since < seconds:
            return False
        self._stopped_since = None
        server.child.resume()
        return True

    def lose(self) -> None:
        """Take note that it is gone: who wants a process waits for the next one."""
        self._ready = trio.Event()

    def kill(self) -> None:
        """End it, and with it all that it has forked: the next starts from nothing."""
        if self.ref is not None:
            self.ref.exit(KILL)

    async def wait(self) -> ActorRef[ForkServer]:
        """Give it when it runs; not bounded, the caller does that."""
        await self._ready.wait()
        assert self.ref is not None
        return self.ref

    def has_lost(self, ref: ActorRef[ForkServer]) -> bool:
        """Whether it is gone, and what it has forked with it."""
        return ref != self.ref or not self._ready.is_set()

    async def fork(self, name: str, channel: socket.socket) -> HostProcess:
        """Fork a process: a launcher for a bridge."""
        assert self.ref is not None
        return await self.ref.call(
            ForkServer.fork, name, channel, self._limits, timeout=_FORK_SECONDS
        )
