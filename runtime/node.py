"""Node: the place where actors run. One nursery, one registry, one deadline heap."""

import itertools
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any, cast

import trio

from dspex.runtime.actor import ActorT
from dspex.runtime.deadlines import Deadlines
from dspex.runtime.errors import AlreadyStartedError
from dspex.runtime.process import Process
from dspex.runtime.ref import ActorRef
from dspex.runtime.registry import Registry


class Node:
    """Hosts actors; made by `open_node`.

    What is started here directly has no parent; leaving `open_node` ends it, last
    started first.
    """

    def __init__(self, nursery: trio.Nursery, *, shutdown_timeout: float) -> None:
        self.nursery = nursery
        self.deadlines = Deadlines()
        self._registry = Registry()
        self._numbers = itertools.count(1)
        self._processes: dict[int, Process] = {}
        self._shutdown_timeout = shutdown_timeout

    @property
    def registry(self) -> Registry:
        """The node's names."""
        return self._registry

    async def start(
        self, actor: ActorT, *, name: str | None = None
    ) -> ActorRef[ActorT]:
        """Start an actor and give its ref once its init has succeeded.

        If cancelled meanwhile, the actor is killed and gone.

        Raises:
            AlreadyStartedError: the name is taken; the actor's init did not run.
            StartIgnoredError: its init answered IGNORE.
            StartError: its init failed; carries the reason.
        """
        return await self.start_process(actor, name=name, parent=None)

    async def start_process(
        self, actor: ActorT, *, name: str | None, parent: Process | None
    ) -> ActorRef[ActorT]:
        """Start an actor, linked to its parent if it has one; see `start`."""
        if name is not None and (existing := self._registry.whereis(name)) is not None:
            await trio.lowlevel.checkpoint()
            raise AlreadyStartedError(name, existing)
        process = Process(
            actor, node=self, number=self.next_number(), name=name, parent=parent
        )
        if name is not None:
            self._registry.register(name, process.ref)
        self._processes[process.id] = process
        if parent is not None:
            parent.link_process(process)
        self.nursery.start_soon(process.run, name=process.name)
        try:
            await process.started.wait()
        except trio.Cancelled:
            process.kill()
            with trio.CancelScope(shield=True):
                await process.died.wait()
            raise
        if process.start_error is not None:
            raise process.start_error
        return process.ref

    def processes(self) -> list[Process]:
        """List the live processes in the order of their start."""
        return list(self._processes.values())

    def process_of(self, ref: ActorRef[Any]) -> Process:  # Any: of every class
        """Give the process behind a ref."""
        return cast("Process", ref.port)

    def next_number(self) -> int:
        """Give a number that was never given before on this node."""
        return next(self._numbers)

    def forget(self, process: Process) -> None:
        """Take note of a death."""
        self._processes.pop(process.id, None)

    async def stop(self) -> None:
        """End every actor, last started first, each within the node's timeout."""
        while roots := [p for p in self._processes.values() if p.parent is None]:
            await roots[-1].end(self._shutdown_timeout)
        for process in self.processes():  # orphans of a killed parent
            process.kill()
            await process.died.wait()


@asynccontextmanager
async def open_node(*, shutdown_timeout: float = 30.0) -> AsyncGenerator[Node]:
    """Open a node for the length of an `async with` block.

    However the block ends (normally, by an exception, cancelled), every actor is
    told to shut down in reverse order of start, has `shutdown_timeout` seconds,
    and is killed then; when the block is left none is alive.
    """
    failure: BaseException | None = None
    async with trio.open_nursery() as outer:
        node: Node = await outer.start(_host, shutdown_timeout)
        try:
            yield node
        except BaseException as error:  # noqa: BLE001 - raised again below
            failure = error
        finally:
            with trio.CancelScope(shield=True):
                await node.stop()
            node.nursery.cancel_scope.cancel()
    if failure is not None:
        raise failure


async def _host(shutdown_timeout: float, *, task_status: trio.TaskStatus[Node]) -> None:
    # Shielded, so that a cancelled host block still ends its actors in order.
    with trio.CancelScope(shield=True):
        async with trio.open_nursery() as nursery:
            node = Node(nursery, shutdown_timeout=shutdown_timeout)
            nursery.start_soon(node.deadlines.run)
            task_status.started(node)
            await trio.sleep_forever()
