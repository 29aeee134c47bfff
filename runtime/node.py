"""Node: the place where actors run. One nursery, one registry, one deadline heap."""

import itertools
import math
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from contextvars import copy_context
from typing import Any, Final, cast

import trio

from dspex.runtime.actor import ActorT
from dspex.runtime.errors import (
    AlreadyStartedError,
    NotTrioError,
    StartError,
    StartTimeoutError,
)
from dspex.runtime.named_ref import NamedRef
from dspex.runtime.process import Process
from dspex.runtime.process_state import ProcessState
from dspex.runtime.ref import ActorRef, Turns
from dspex.runtime.registry import Names, Registry
from dspex.runtime.telemetry import Telemetry
from dspex.runtime.timers import Timers

_LEAVING_SECONDS: Final = 5.0


class Node:
    """Hosts actors; made by `open_node`.

    What is started here directly has no parent; leaving `open_node` ends it, last
    started first.
    """

    def __init__(
        self,
        nursery: trio.Nursery,
        *,
        shutdown_timeout: float,
        must_end: trio.Event,
    ) -> None:
        self.nursery = nursery
        self.timers = Timers()
        self.telemetry = Telemetry()
        self.sends = Turns()
        # Actors start from here, so that none keeps the context of who started it.
        self.context = copy_context()
        self._registry = Registry()
        self._numbers = itertools.count(1)
        self._processes: dict[Process, None] = {}
        self._roots: dict[Process, None] = {}
        self._shutdown_timeout = shutdown_timeout
        self.must_end = must_end
        self.failure: BaseException | None = None

    @property
    def registry(self) -> Registry:
        """The node's names."""
        return self._registry

    def named(
        self, name: str, actor_class: type[ActorT], *, registry: Names | None = None
    ) -> NamedRef[ActorT]:
        """Give a ref that looks `name` up at each use, typed by the actor's class."""
        return NamedRef(name, self._registry if registry is None else registry)

    async def start(
        self,
        actor: ActorT,
        *,
        name: str | None = None,
        timeout: float = math.inf,
        registry: Names | None = None,
    ) -> ActorRef[ActorT]:
        """Start an actor and give its ref once its init has succeeded.

        If cancelled or late, the actor is killed and gone. `registry` is where the
        name is registered, instead of the node's own: OTP's `via`.

        Raises:
            AlreadyStartedError: the name is taken; the actor's init did not run. Of
                an actor that is about to end it is awaited, for some seconds.
            StartIgnoredError: its init answered IGNORE.
            StartTimeoutError: its init took longer than `timeout` seconds.
            StartError: its init failed; carries the reason.
        """
        return await self.start_process(
            actor, name=name, parent=None, timeout=timeout, registry=registry
        )

    async def start_process(
        self,
        actor: ActorT,
        *,
        name: str | None,
        parent: ProcessState | None,
        timeout: float,
        registry: Names | None,
    ) -> ActorRef[ActorT]:
        """Start an actor, linked to its parent if it has one; see `start`."""
        if self.must_end.is_set() and parent is None:
            await trio.lowlevel.checkpoint()
            raise StartError(name or type(actor).__name__, "the node is ending")
        process = Process(actor, node=self, number=next(self._numbers), parent=parent)
        ref: ActorRef[ActorT] = ActorRef(process)
        if name is not None:
            names = self._registry if registry is None else registry
            if names.whereis(name) is not None:
                await _wait_for_name(name, names, timeout)
            names.register(name, ref)
        self._processes[process] = None
        if parent is None:
            self._roots[process] = None
        else:
            cast("Process", parent).link_process(process)
        label = name or type(actor).__name__
        start_soon: Any = self.nursery.start_soon  # Any: mypy can't pass it on
        self.context.run(start_soon, process.run, name=label)
        try:
            if timeout == math.inf:
                await process.wait_started()
            else:
                with trio.move_on_after(timeout):
                    await process.wait_started()
                if process.is_alive and not process.is_serving:
                    process.start_error = StartTimeoutError(process.name, timeout)
                    if parent is not None:
                        cast("Process", parent).unlink(ref)
                    await process.end(0)
        except trio.Cancelled:
            process.end_with_starter()
            with trio.CancelScope(shield=True):
                await process.wait_dead()
            raise
        if process.start_error is not None:
            raise process.start_error
        return ref

    def processes(self) -> list[Process]:
        """List the live processes in the order of their start."""
        return list(self._processes)

    def process_of(self, ref: ActorRef[Any]) -> Process:  # Any: of every class
        """Give the process behind a ref."""
        return cast("Process", ref.port)

    def next_number(self) -> int:
        """Give a number that was never given before on this node."""
        return next(self._numbers)

    def forget(self, process: ProcessState) -> None:
        """Take note of a death."""
        ended = cast("Process", process)
        self._processes.pop(ended, None)
        self._roots.pop(ended, None)

    def interrupt(self, error: BaseException) -> None:
        """End the whole node in order, and raise `error` where it was opened."""
        self.failure = self.failure or error
        self.must_end.set()

    async def stop(self) -> None:
        """End every actor, last started first, each within the node's timeout."""
        while self._roots:
            await next(reversed(self._roots)).end(self._shutdown_timeout)
        while self._processes:  # orphans of a killed parent
            await next(reversed(self._processes)).end(0)


def require_trio(what: str) -> None:
    """Raise NotTrioError, on behalf of `what`, where no task of trio runs."""
    if not trio.lowlevel.in_trio_task():
        raise NotTrioError(what)


@asynccontextmanager
async def open_node(*, shutdown_timeout: float = 30.0) -> AsyncGenerator[Node]:
    """Open a node for the length of an `async with` block.

    However the block ends (normally, by an exception, cancelled, interrupted from
    the keyboard), every actor is told to shut down in reverse order of start, has
    `shutdown_timeout` seconds, and is killed then; when the block is left none is
    alive.

    Raises:
        NotTrioError: it is not opened in a task of trio.
    """
    require_trio("open_node")
    failure: BaseException | None = None
    host = _Host(shutdown_timeout)
    try:
        async with trio.open_nursery() as outer:
            outer.start_soon(host.run, outer.cancel_scope)
            try:
                with trio.CancelScope(shield=True):  # no longer than one turn
                    await host.is_ready.wait()
                yield host.node
            except BaseException as error:  # noqa: BLE001 - raised again below
                failure = error
            finally:
                host.must_end.set()
    except BaseExceptionGroup as group:
        # Only what came from the keyboard, or a bug of the kernel, gets here.
        failure = failure or (
            group.exceptions[0] if len(group.exceptions) == 1 else group
        )
    if host.is_ready.is_set() and host.node.failure is not None:
        raise host.node.failure
    if failure is not None:
        raise failure


class _Host:
    """Runs a node in a task of its own, for KeyboardInterrupt hits the main task."""

    node: Node

    def __init__(self, shutdown_timeout: float) -> None:
        self.is_ready = trio.Event()
        self.must_end = trio.Event()
        self._shutdown_timeout = shutdown_timeout

    @trio.lowlevel.enable_ki_protection
    async def run(self, block: trio.CancelScope) -> None:
        # Shielded, so that a cancelled or interrupted block still ends its actors
        # in order.
        with trio.CancelScope(shield=True):
            async with trio.open_nursery() as nursery:
                self.node = Node(
                    nursery,
                    shutdown_timeout=self._shutdown_timeout,
                    must_end=self.must_end,
                )
                nursery.start_soon(self.node.timers.run)
                self.is_ready.set()
                await self.must_end.wait()
                if self.node.failure is not None:
                    block.cancel()
                await self.node.stop()
                nursery.cancel_scope.cancel()


async def _wait_for_name(name: str, names: Names, timeout: float) -> None:
    """Wait for a name whose actor is on its way out.

    OTP's processes are gone at once when they are killed; here clean-up takes turns of
    the loop, or longer, in which a supervisor would use its restarts up.
    """
    with trio.move_on_after(min(timeout, _LEAVING_SECONDS)):
        while (there := names.whereis(name)) is not None:
            if not cast("Process", there.port).is_leaving:
                break
            await there.wait_exit()
    await trio.lowlevel.checkpoint_if_cancelled()
    if (there := names.whereis(name)) is not None:
        await trio.lowlevel.checkpoint()
        raise AlreadyStartedError(name, there)
