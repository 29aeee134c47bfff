"""Refs: how one actor, or any task, speaks to an actor."""

from collections.abc import Awaitable, Callable
from typing import Any, Generic, Protocol, TypeVar, TypeVarTuple, Unpack, overload

import trio

from dspex.runtime.context import current_context
from dspex.runtime.deadlines import Deadlines
from dspex.runtime.envelope import Deferred, Envelope, Info, Request
from dspex.runtime.errors import CallingSelfError, MailboxFullError, NoProcessError
from dspex.runtime.mailbox import Mailbox
from dspex.runtime.reasons import ExitReason

ActorT = TypeVar("ActorT")
T = TypeVar("T")
Ts = TypeVarTuple("Ts")

DEFAULT_CALL_TIMEOUT = 5.0


class Port(Protocol):
    """What a ref needs of the process behind it."""

    id: int
    name: str
    mailbox: Mailbox
    deadlines: Deadlines
    task: "trio.lowlevel.Task | None"
    is_alive: bool
    is_serving: bool
    exit_reason: ExitReason

    @property
    def actor(self) -> object:
        """The actor's instance."""
        ...

    @property
    def state(self) -> str:
        """Which part of its life it is in."""
        ...

    def signal(self, reason: ExitReason, *, sender: object) -> None:
        """Handle an exit signal."""
        ...


class ActorRef(Generic[ActorT]):
    """One incarnation of an actor: Erlang's pid, typed by the actor's class.

    A restarted actor has a new ref; look its name up again, or use a ref that
    follows the name (`Registry.named`).
    """

    __slots__ = ("port",)

    def __init__(self, port: Port) -> None:
        self.port = port

    @property
    def id(self) -> int:
        """A number no other actor of this process has had."""
        return self.port.id

    @property
    def name(self) -> str:
        """The registered name, or a made-up one that tells class and id."""
        return self.port.name

    @property
    def is_alive(self) -> bool:
        """Whether the actor has not ended yet."""
        return self.port.is_alive

    @property
    def is_serving(self) -> bool:
        """Whether its init has succeeded and it has not ended yet."""
        return self.port.is_serving

    @property
    def exit_reason(self) -> ExitReason:
        """Why it ended; None while it is alive."""
        return self.port.exit_reason

    @property
    def state(self) -> str:
        """One of starting, running, stopping, dead."""
        return self.port.state

    @property
    def mailbox(self) -> Mailbox:
        """Its mailbox: depth, capacity, high water."""
        return self.port.mailbox

    @overload
    async def call(
        self,
        method: Callable[[ActorT, Unpack[Ts]], Awaitable[Deferred[T]]],
        /,
        *arguments: *Ts,
        timeout: float = ...,
    ) -> T: ...

    @overload
    async def call(
        self,
        method: Callable[[ActorT, Unpack[Ts]], Awaitable[T]],
        /,
        *arguments: *Ts,
        timeout: float = ...,
    ) -> T: ...

    # mypy does not match *Ts with *Any.
    async def call(  # type: ignore[misc]
        self,
        method: Any,  # Any: the overloads type it
        /,
        *arguments: Any,  # Any: the overloads type it
        timeout: float = DEFAULT_CALL_TIMEOUT,
    ) -> Any:  # Any: the overloads type it
        """Ask the actor to run `method` and give its answer: `gen_server:call`.

        Waits for room when the mailbox is full. A call made inside a handler never
        outlives the deadline of the call that is being handled. A cancelled
        caller's request is not started if it still lies in the mailbox.

        Raises:
            NoProcessError: it is dead already.
            CallTimeoutError: no answer within `timeout` seconds; it may still work.
            CalleeExitedError: it died first; carries its exit reason.
            CallingSelfError: called from the actor's own handler.
        """
        port = self.port
        if not port.is_alive:
            await trio.lowlevel.checkpoint()
            raise NoProcessError(port.name)
        task = trio.lowlevel.current_task()
        if port.task is task:
            raise CallingSelfError(port.name)
        context = current_context.get()
        request = Request(method, arguments, context, task)
        deadline = trio.current_time() + timeout
        if context is not None and context.deadline is not None:
            deadline = min(deadline, context.deadline)
        port.deadlines.add(
            request, deadline=deadline, callee=port.name, seconds=timeout
        )
        port.mailbox.put_or_queue(request)
        return await trio.lowlevel.wait_task_rescheduled(request.abandon)

    async def cast(
        self,
        method: Callable[[ActorT, Unpack[Ts]], Awaitable[object]],
        /,
        *arguments: *Ts,
    ) -> None:
        """Ask the actor to run `method`, without an answer; wait for room if full.

        A dead actor drops it silently, as in OTP.
        """
        request = Request(method, arguments, current_context.get(), None)
        await self._put(request)

    def cast_nowait(
        self,
        method: Callable[[ActorT, Unpack[Ts]], Awaitable[object]],
        /,
        *arguments: *Ts,
    ) -> None:
        """Cast without waiting.

        Raises:
            MailboxFullError: there is no room.
        """
        self._put_nowait(Request(method, arguments, current_context.get(), None))

    async def send(self, message: object) -> None:
        """Send a plain message to `handle_info`; wait for room if full."""
        await self._put(Info(message, current_context.get()))

    def send_nowait(self, message: object) -> None:
        """Send a plain message without waiting.

        Raises:
            MailboxFullError: there is no room.
        """
        self._put_nowait(Info(message, current_context.get()))

    def exit(self, reason: ExitReason) -> None:
        """Send an exit signal from a stranger: `exit(Pid, Reason)`.

        `normal` is ignored; `kill` cannot be; an actor that traps exits gets an
        `Exit` message; any other ends with the reason, `terminate` not run.
        """
        self.port.signal(reason, sender=None)

    async def _put(self, envelope: Envelope) -> None:
        await trio.lowlevel.checkpoint()
        if self.port.is_alive:
            await self.port.mailbox.put(envelope)

    def _put_nowait(self, envelope: Envelope) -> None:
        port = self.port
        if port.is_alive and not port.mailbox.put_nowait(envelope):
            raise MailboxFullError(port.name, port.mailbox.capacity)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ActorRef) and other.port is self.port

    def __hash__(self) -> int:
        return hash(self.port.id)

    def __repr__(self) -> str:
        state = "alive" if self.is_alive else "dead"
        return f"<ActorRef {self.name} #{self.id} {state}>"
