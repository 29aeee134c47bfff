"""Actor: the class a user subclasses. One instance is one incarnation's state."""

import math
from collections.abc import Awaitable, Callable, Sequence
from typing import (
    Any,
    ClassVar,
    Final,
    Literal,
    Protocol,
    TypeVar,
    TypeVarTuple,
    Unpack,
)

import trio

from dspex.runtime.envelope import DEFAULT_CAPACITY, Deferred
from dspex.runtime.errors import DspexError
from dspex.runtime.reasons import NORMAL, ExitReason
from dspex.runtime.ref import ActorRef
from dspex.runtime.registry import Names, Registry
from dspex.runtime.timers import Timer

Ts = TypeVarTuple("Ts")


class InitAnswer:
    """What `init` may answer beside None: `IGNORE`, or what a supervisor keeps."""


class Ignore(InitAnswer):
    """What `init` answers when the actor should not run, and that is no failure."""


IGNORE: Final = Ignore()


class Continue(InitAnswer):
    """What `init` answers to run `handle_continue(argument)` before any message."""

    __slots__ = ("argument",)

    def __init__(self, argument: object = None) -> None:
        self.argument = argument


class BadReturnValueError(DspexError):
    """A callback answered what it may not: OTP's `bad_return_value`."""

    def __init__(self, callback: str, value: object) -> None:
        super().__init__(f"{callback} answered {value!r}; it must answer None")
        self.callback = callback
        self.value = value


class Refuse(Exception):  # noqa: N818 - an order to the kernel, not an error
    """Raised in a handler: fail only this caller, with `error`; the actor lives."""

    def __init__(self, error: Exception) -> None:
        super().__init__(str(error))
        self.error = error


class Leave(Exception):  # noqa: N818 - an order to the kernel, not an error
    """Raised in a callback: end this actor with `reason`; a caller gets no reply."""

    def __init__(self, reason: ExitReason = NORMAL) -> None:
        super().__init__(str(reason))
        self.reason = NORMAL if reason is None else reason


class NodePort(Protocol):
    """What an actor may ask of the node it runs on."""

    @property
    def registry(self) -> Registry:
        """The node's names."""
        ...

    async def start(
        self,
        actor: "ActorT",
        *,
        name: str | None = None,
        timeout: float = math.inf,
        registry: Names | None = None,
    ) -> "ActorRef[ActorT]":
        """Start an actor without a link."""
        ...


class Host(Protocol):
    """What an actor may ask of the process that runs it."""

    @property
    def node(self) -> NodePort:
        """The node it runs on."""
        ...

    @property
    def ref(self) -> ActorRef[Any]:  # Any: the actor narrows it
        """The ref others use."""
        ...

    def stop(self, reason: ExitReason) -> None:
        """End after the message being handled."""
        ...

    def defer(self) -> Deferred[Any]:  # Any: the actor narrows it
        """Let the caller of the message being handled wait."""
        ...

    def spawn(
        self,
        work: Callable[..., Awaitable[object]],
        arguments: tuple[object, ...],
        *,
        deadline: float,
    ) -> trio.CancelScope:
        """Start a task that dies with the actor; give the scope it runs in."""
        ...

    def send_self(self, message: object, *, after: float | None) -> Timer | None:
        """Put a plain message behind what lies in the own mailbox, maybe later."""
        ...

    def continue_with(self, argument: object) -> None:
        """Run `handle_continue` before the next message."""
        ...

    def set_idle_timeout(self, seconds: float) -> None:
        """Get TIMEOUT as a message if no other comes within `seconds`."""
        ...

    async def receive(
        self, wanted: Callable[[object], bool], *, timeout: float
    ) -> object:
        """Take the first message that is wanted; leave the others in order."""
        ...

    def exit(self, ref: ActorRef[Any], reason: ExitReason) -> None:  # Any: every class
        """Send an exit signal."""
        ...

    async def start_link(
        self,
        actor: "ActorT",
        *,
        name: str | None,
        timeout: float,
        registry: Names | None,
    ) -> "ActorRef[ActorT]":
        """Start an actor linked to this one, which is its parent."""
        ...

    async def end_children(
        self,
        refs: Sequence[ActorRef[Any]],  # Any: of every class
        shutdowns: Sequence[float],
    ) -> list[ExitReason]:
        """Tell children to shut down, kill the late ones; give their exit reasons."""
        ...

    def monitor(self, ref: ActorRef[Any]) -> int:  # Any: of every class
        """Ask for one Down message when `ref` ends."""
        ...

    def demonitor(self, monitor: int) -> None:
        """Take a monitor back, its Down message included."""
        ...

    def link(self, ref: ActorRef[Any]) -> None:  # Any: of every class
        """Share the fate of `ref`."""
        ...

    def unlink(self, ref: ActorRef[Any]) -> None:  # Any: of every class
        """Take a link back."""
        ...


class Actor:
    """One incarnation of a supervised process: the instance is its state.

    Every public async method is a request: `ref.call(Counter.add, 2)` runs it in
    the actor's own task, one message at a time, and gives its return value. An
    exception out of a callback ends the actor with that exception as its reason
    (let it crash); `Refuse(error)` fails only the caller.

    The callbacks and their order are `gen_server`'s.
    """

    actor_type: ClassVar[Literal["worker", "supervisor"]] = "worker"
    """What a child spec of this class is, unless it says otherwise."""

    trap_exit: bool = False
    """Get exit signals as `Exit` messages, and run `terminate` when the parent says
    to end: OTP's `process_flag(trap_exit, true)`."""

    capacity: ClassVar[int] = DEFAULT_CAPACITY
    """How many messages the mailbox holds before senders wait."""

    _host: Host

    async def init(self) -> InitAnswer | None:
        """Set up before the first message; the starter waits for it.

        Answer IGNORE not to run at all. An exception fails the start with it as the
        reason; `terminate` does not run then.
        """

    async def handle_continue(self, argument: object) -> None:
        """Go on after `init` answered Continue, or after `continue_with`.

        Runs before any message that lies in the mailbox.
        """

    async def _enter(self) -> InitAnswer | None:
        # What the process runs as init: a seam for the kernel's own actors.
        return await self.init()

    async def handle_info(self, message: object) -> None:
        """Handle a plain message, a `Down` or an `Exit`. The default drops it."""

    async def terminate(self, reason: ExitReason) -> None:
        """Clean up at an orderly end or after a crash of a callback.

        Does not run when the actor is killed, nor, unless it traps exits, when an
        exit signal ends it.
        """

    @property
    def node(self) -> NodePort:
        """The node this actor runs on."""
        return self._host.node

    @property
    def ref(self) -> ActorRef[Any]:  # Any: Self is not known to callers of the base
        """The actor's own ref, to hand out."""
        return self._host.ref

    @property
    def name(self) -> str:
        """The registered name, or a made-up one that tells class and id."""
        return self._host.ref.name

    def stop(self, reason: ExitReason = NORMAL) -> None:
        """End after the message being handled, whose caller still gets its reply."""
        self._host.stop(reason)

    def deferred(self) -> Deferred[Any]:  # Any: narrowed by the handler's annotation
        """Let the caller of this request wait for a later reply; return it."""
        return self._host.defer()

    def spawn(
        self,
        work: Callable[[Unpack[Ts]], Awaitable[object]],
        *arguments: *Ts,
        deadline: float = math.inf,
    ) -> trio.CancelScope:
        """Start a task that dies with this actor; its exception crashes the actor.

        The scope is the task's own: cancel it. It is cancelled at `deadline`, which is
        on trio's clock.
        """
        return self._host.spawn(work, arguments, deadline=deadline)

    def continue_with(self, argument: object = None) -> None:
        """Run `handle_continue(argument)` after this callback, before any message."""
        self._host.continue_with(argument)

    def idle_timeout(self, seconds: float) -> None:
        """Get `TIMEOUT` by `handle_info` if no message comes within `seconds`.

        Counts from the end of this callback, fires once, and any message takes it
        back: a server timeout of `gen_server`.
        """
        self._host.set_idle_timeout(seconds)

    def send_self(self, message: object) -> None:
        """Put a plain message behind what lies in the own mailbox, however full."""
        self._host.send_self(message, after=None)

    def send_after(self, seconds: float, message: object) -> Timer:
        """Get a plain message in `seconds`; the timer's `cancel()` takes it back."""
        timer = self._host.send_self(message, after=seconds)
        assert timer is not None
        return timer

    async def receive(
        self, wanted: Callable[[object], bool], *, timeout: float = 5.0
    ) -> object:
        """Take the first plain message that `wanted` accepts; leave others in order.

        For a callback that waits for one special message (a `Down`, an answer): OTP's
        selective `receive`. Requests and the rest stay in the mailbox meanwhile.

        Raises:
            trio.TooSlowError: none came within `timeout` seconds.
        """
        return await self._host.receive(wanted, timeout=timeout)

    def exit(self, ref: ActorRef[Any], reason: ExitReason) -> None:  # Any: every class
        """Send an exit signal: as a parent to a child, else as a stranger.

        See `ActorRef.exit`. To oneself, `normal` ends too.
        """
        self._host.exit(ref, reason)

    async def start_link(
        self,
        actor: "ActorT",
        *,
        name: str | None = None,
        timeout: float = math.inf,
        registry: Names | None = None,
    ) -> "ActorRef[ActorT]":
        """Start an actor linked to this one, which is its parent; see `Node.start`."""
        return await self._host.start_link(
            actor, name=name, timeout=timeout, registry=registry
        )

    async def end_children(
        self,
        refs: Sequence[ActorRef[Any]],  # Any: of every class
        shutdowns: Sequence[float],
    ) -> list[ExitReason]:
        """Unlink actors, tell them all to shut down, wait until they are gone.

        Each is killed when its own number of seconds in `shutdowns` is over; 0 kills
        at once, `math.inf` waits for ever. Gives their exit reasons.
        """
        return await self._host.end_children(refs, shutdowns)

    def monitor(self, ref: ActorRef[Any]) -> int:  # Any: of every class
        """Ask for exactly one `Down` message when `ref` ends, also if it has."""
        return self._host.monitor(ref)

    def demonitor(self, monitor: int) -> None:
        """Take a monitor back, its `Down` included if it lies in the mailbox."""
        self._host.demonitor(monitor)

    def link(self, ref: ActorRef[Any]) -> None:  # Any: of every class
        """Share the fate of `ref`, both ways. A link is a set: twice is once."""
        self._host.link(ref)

    def unlink(self, ref: ActorRef[Any]) -> None:  # Any: of every class
        """Take a link back, both ways."""
        self._host.unlink(ref)


ActorT = TypeVar("ActorT", bound=Actor)
