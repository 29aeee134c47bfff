"""Refs: how one actor, or any task, speaks to an actor."""

from collections.abc import Awaitable, Callable
from contextvars import copy_context
from typing import Any, Generic, Protocol, TypeVar, TypeVarTuple, Unpack, overload

import trio
from trio.lowlevel import current_task, reschedule, wait_task_rescheduled

from dspex.runtime.context import current_request
from dspex.runtime.envelope import Deferred, Envelope, Info, Request, Stop
from dspex.runtime.errors import (
    CalleeExitedError,
    CallingSelfError,
    CallTimeoutError,
    MailboxFullError,
    NoProcessError,
)
from dspex.runtime.mailbox import Mailbox
from dspex.runtime.reasons import NORMAL, ExitReason
from dspex.runtime.timers import Timers
from dspex.runtime.wake import WOKEN

ActorT = TypeVar("ActorT")
T = TypeVar("T")
Ts = TypeVarTuple("Ts")

DEFAULT_CALL_TIMEOUT = 5.0


# After this many casts or sends that did not have to wait, one lets others run.
_SENDS_PER_TURN = 64


class Port(Protocol):
    """What a ref needs of the process behind it."""

    id: int
    mailbox: Mailbox
    timers: Timers
    sends: "Turns"
    is_alive: bool
    is_serving: bool
    exit_reason: ExitReason

    @property
    def task(self) -> "trio.lowlevel.Task | None":
        """The task it runs in, once it has begun."""
        ...

    @property
    def name(self) -> str:
        """The registered name, or a made-up one that tells class and id."""
        ...

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

    async def wait_dead(self) -> ExitReason:
        """Wait until it has ended."""
        ...

    def children(self) -> "list[ActorRef[Any]]":  # Any: of every class
        """Give the refs of the live actors that it started with a link."""
        ...

    def add_name(self, registry: Any, name: str) -> None:  # Any: a registry has refs
        """Take note of a name that must be freed at death."""
        ...

    def drop_name(self, registry: Any, name: str) -> None:  # Any: a registry has refs
        """Take note that a name is not this one's any more."""
        ...

    def name_in(self, registry: object) -> str | None:
        """Give the name it has in a registry."""
        ...


class Turns:
    """Counts sends that did not wait, over a whole node."""

    __slots__ = ("left",)

    def __init__(self) -> None:
        self.left = _SENDS_PER_TURN


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
        task = current_task()
        if not port.is_alive or port.task is task:
            await trio.lowlevel.checkpoint()
            if port.task is task:
                raise CallingSelfError(port.name)
            raise NoProcessError(port.name)
        timers = port.timers
        now = timers.now()
        handled = current_request.get()
        if (
            handled is not None
            and handled.deadline < now + timeout
            and not handled.settled
        ):
            timeout = max(0.0, handled.deadline - now)
        deadline = now + timeout
        request = Request(
            method, arguments, copy_context(), task, port, deadline, timeout
        )
        timers.add(request)
        mailbox = port.mailbox
        reader = mailbox.reader
        if reader is not None:  # what put_call does for an actor that waits
            mailbox.reader = None
            mailbox.handed = request
            reschedule(reader, WOKEN)
        else:
            mailbox.put_call(request)
        await wait_task_rescheduled(request.abandon)
        answer = request.answer
        request.answer = None  # the timers have the request until its deadline
        return answer

    async def cast(
        self,
        method: Callable[[ActorT, Unpack[Ts]], Awaitable[object]],
        /,
        *arguments: *Ts,
    ) -> None:
        """Ask the actor to run `method`, without an answer; wait for room if full.

        A dead actor drops it silently, as in OTP.
        """
        await self._put(Request(method, arguments, copy_context(), None))

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
        port = self.port
        if port.is_alive and not port.mailbox.put_nowait(
            Request(method, arguments, copy_context(), None)
        ):
            raise MailboxFullError(port.name, port.mailbox.capacity)

    async def send(self, message: object) -> None:
        """Send a plain message to `handle_info`; wait for room if full."""
        await self._put(Info(message, copy_context()))

    def send_nowait(self, message: object) -> None:
        """Send a plain message without waiting.

        Raises:
            MailboxFullError: there is no room.
        """
        self._put_nowait(Info(message, copy_context()))

    def exit(self, reason: ExitReason) -> None:
        """Send an exit signal from a stranger: `exit(Pid, Reason)`.

        `normal` is ignored; `kill` cannot be; an actor that traps exits gets an
        `Exit` message; any other ends with the reason, `terminate` not run.
        """
        self.port.signal(reason, sender=None)

    async def stop(
        self, reason: ExitReason = NORMAL, *, timeout: float = DEFAULT_CALL_TIMEOUT
    ) -> None:
        """Let the actor run `terminate` and end, and wait for that: `gen_server:stop`.

        Raises:
            NoProcessError: it is dead already.
            CallTimeoutError: it has not ended within `timeout` seconds.
            CalleeExitedError: it ended with another reason.
            CallingSelfError: from the actor's own handler; see `Actor.stop`.
        """
        port = self.port
        if not port.is_alive:
            await trio.lowlevel.checkpoint()
            raise NoProcessError(port.name)
        if port.task is current_task():
            await trio.lowlevel.checkpoint()
            raise CallingSelfError(port.name)
        port.mailbox.put_system(Stop(reason))
        with trio.move_on_after(timeout):
            ended = await port.wait_dead()
            if ended is not reason and ended != reason:
                raise CalleeExitedError(port.name, port.exit_reason)
            return
        raise CallTimeoutError(port.name, timeout)

    async def wait_exit(self) -> ExitReason:
        """Wait until the actor has ended; give its exit reason."""
        return await self.port.wait_dead()

    async def _put(self, envelope: Envelope) -> None:
        # Always a cancellation point; lets others run when it has to wait, and now
        # and then otherwise: a full checkpoint each time would cost more than the
        # whole cast.
        port = self.port
        turns = port.sends
        turns.left -= 1
        if turns.left <= 0:
            turns.left = _SENDS_PER_TURN
            await trio.lowlevel.checkpoint()
        else:
            await trio.lowlevel.checkpoint_if_cancelled()
        if port.is_alive and not port.mailbox.put_nowait(envelope):
            await port.mailbox.put(envelope)

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
