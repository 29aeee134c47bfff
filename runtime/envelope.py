"""Envelopes: what lies in a mailbox, and the waiting side of a request."""

import math
from collections.abc import Awaitable, Callable
from contextvars import Context
from dataclasses import dataclass
from typing import Any, Final, Generic, Protocol, TypeAlias, TypeVar

import msgspec
import trio
from outcome import Error
from trio.lowlevel import reschedule

from dspex.runtime.errors import CallTimeoutError
from dspex.runtime.reasons import ExitReason
from dspex.runtime.wake import WOKEN

T = TypeVar("T")

DEFAULT_CAPACITY: Final = 1_000

NO_CONTEXT: Final = Context()
"""Takes the place of a request's context when its handler has ended.

The context knows the request, as the one that is being handled. Without this the two
would keep each other alive until a full collection, which stops the whole node for as
long as ten thousand calls take.
"""


class Callee(Protocol):
    """Whom a request was sent to."""

    @property
    def name(self) -> str:
        """Its name, for messages."""
        ...


class Request(msgspec.Struct, eq=False):
    """A call or cast on its way to a handler, and where its answer goes.

    A request is answered at most once; what comes later is dropped, as OTP drops
    the late reply of a timed-out call.
    """

    # A struct, because one is made for each call and a slotted class takes 4 times
    # as long to make.
    method: Callable[..., Awaitable[Any]]  # Any: typed by ActorRef.call
    arguments: tuple[Any, ...]  # Any: typed by ActorRef.call
    context: Context
    task: trio.lowlevel.Task | None = None
    callee: Callee | None = None
    deadline: float = math.inf
    seconds: float = math.inf
    # True once answered, timed out or abandoned by its caller; never for a cast.
    settled: bool = False
    on_settled: Callable[[], None] | None = None
    # What the caller finds when it is woken without an error.
    answer: object = None

    @property
    def is_call(self) -> bool:
        """Whether somebody waits, or has waited, for an answer."""
        return self.task is not None

    def reply(self, value: object) -> None:
        """Answer the caller with a value, if it still waits."""
        task = self.task
        if not self.settled and task is not None:
            self.settled = True
            if self.on_settled is not None:
                self.on_settled()
                self.on_settled = None
            self.answer = value
            reschedule(task, WOKEN)

    def fail(self, error: BaseException) -> None:
        """Answer the caller with an exception, if it still waits."""
        if not self.settled and self.task is not None:
            self._settle()
            reschedule(self.task, Error(error))

    def expire(self) -> None:
        """Tell the caller that its time is over."""
        callee = self.callee.name if self.callee is not None else ""
        self.fail(CallTimeoutError(callee, self.seconds))

    def abandon(self, _: object) -> trio.lowlevel.Abort:
        """Take note that the caller was cancelled: do not start this request."""
        self._settle()
        return trio.lowlevel.Abort.SUCCEEDED

    def _settle(self) -> None:
        self.settled = True
        if self.on_settled is not None:
            self.on_settled()
            self.on_settled = None

    def forget(self) -> None:
        """Let go of what only a handler needs; the timers keep the rest for a while."""
        self.context = NO_CONTEXT
        self.arguments = ()


@dataclass(frozen=True, slots=True)
class Info:
    """A plain message for `handle_info`; the kernel's own have no context."""

    message: object
    context: Context | None = None


@dataclass(frozen=True, slots=True)
class Continue:
    """An order to run `handle_continue` before the next message."""

    argument: object


@dataclass(frozen=True, slots=True)
class Stop:
    """An order to end with `reason`, running `terminate`: `gen_server:stop`."""

    reason: ExitReason


@dataclass(frozen=True, slots=True)
class ParentExit:
    """The parent of an actor that traps exits told it to end."""

    reason: ExitReason


@dataclass(frozen=True, slots=True)
class System:
    """A question to the process itself, answered also while it is suspended."""

    request: Request


SystemEnvelope: TypeAlias = Stop | ParentExit | System
Envelope: TypeAlias = Request | Info | SystemEnvelope


class Deferred(Generic[T]):
    """An answer that comes later, from another task: OTP's `{noreply, ...}`.

    A handler that returns a Deferred leaves its caller waiting until `reply` or
    `fail`. If the actor dies first, the caller hears of that.
    """

    __slots__ = ("_open", "request")

    def __init__(self, request: Request, still_open: dict[Request, None]) -> None:
        self.request = request
        self._open = still_open

    def reply(self, value: T) -> None:
        """Answer the caller; a second answer is dropped."""
        self._open.pop(self.request, None)
        self.request.reply(value)

    def fail(self, error: BaseException) -> None:
        """Raise `error` in the caller; a second answer is dropped."""
        self._open.pop(self.request, None)
        self.request.fail(error)

    @property
    def is_wanted(self) -> bool:
        """Whether the caller still waits (not answered, timed out or cancelled).

        A cast has no caller; its work is always wanted.
        """
        return not self.request.settled

    def cancel_when_unwanted(self, scope: trio.CancelScope) -> None:
        """Cancel `scope` as soon as the caller no longer waits.

        So work for a caller that was cancelled or timed out ends at once. One scope
        a Deferred; when the answer was given the scope is cancelled too.
        """
        self.when_settled(scope.cancel)

    def when_settled(self, tell: Callable[[], None]) -> None:
        """Call `tell` once the caller has its answer or no longer waits.

        One a Deferred. It is called by whoever settles it, so it must not wait.
        """
        if self.is_wanted:
            self.request.on_settled = tell
        else:
            tell()
