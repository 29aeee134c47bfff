"""Envelopes: what lies in a mailbox, and the waiting side of a request."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final, Generic, TypeVar

import outcome
import trio

from dspex.runtime.context import MessageContext
from dspex.runtime.reasons import ExitReason

T = TypeVar("T")


class Request:
    """A call or cast on its way to a handler, and where its answer goes.

    A request is answered at most once; what comes later is dropped, as OTP drops
    the late reply of a timed-out call.
    """

    __slots__ = ("_task", "arguments", "context", "method", "on_settled", "settled")

    def __init__(
        self,
        method: Callable[..., Awaitable[Any]],  # Any: typed by ActorRef.call
        arguments: tuple[Any, ...],
        context: MessageContext | None,
        task: "trio.lowlevel.Task | None",
    ) -> None:
        self.method = method
        self.arguments = arguments
        self.context = context
        self._task = task
        # True once answered, timed out or abandoned by its caller.
        self.settled = False
        self.on_settled: Callable[[], None] | None = None

    @property
    def is_call(self) -> bool:
        """Whether somebody waits for an answer."""
        return self._task is not None

    def reply(self, value: object) -> None:
        """Answer the caller with a value, if it still waits."""
        if not self.settled:
            self._settle()
            if self._task is not None:
                trio.lowlevel.reschedule(self._task, outcome.Value(value))

    def fail(self, error: BaseException) -> None:
        """Answer the caller with an exception, if it still waits."""
        if not self.settled:
            self._settle()
            if self._task is not None:
                trio.lowlevel.reschedule(self._task, outcome.Error(error))

    def abandon(self, _: object) -> trio.lowlevel.Abort:
        """Take note that the caller was cancelled: do not start this request."""
        self._settle()
        return trio.lowlevel.Abort.SUCCEEDED

    def _settle(self) -> None:
        self.settled = True
        if self.on_settled is not None:
            self.on_settled()


@dataclass(frozen=True, slots=True)
class Info:
    """A plain message for `handle_info`."""

    message: object
    context: MessageContext | None = None


@dataclass(frozen=True, slots=True)
class Stop:
    """An order to end with `reason`, running `terminate`: `gen_server:stop`."""

    reason: ExitReason


@dataclass(frozen=True, slots=True)
class ParentExit:
    """The parent of an actor that traps exits told it to end."""

    reason: ExitReason


Envelope = Request | Info | Stop | ParentExit


class Deferred(Generic[T]):
    """An answer that comes later, from another task: OTP's `{noreply, ...}`.

    A handler that returns a Deferred leaves its caller waiting until `reply` or
    `fail`. If the actor dies first, the caller hears of that.
    """

    __slots__ = ("_request",)

    def __init__(self, request: Request) -> None:
        self._request = request

    def reply(self, value: T) -> None:
        """Answer the caller; a second answer is dropped."""
        self._request.reply(value)

    def fail(self, error: BaseException) -> None:
        """Raise `error` in the caller; a second answer is dropped."""
        self._request.fail(error)

    @property
    def is_wanted(self) -> bool:
        """Whether the caller still waits (not answered, timed out or cancelled)."""
        return not self._request.settled

    def cancel_when_unwanted(self, scope: trio.CancelScope) -> None:
        """Cancel `scope` as soon as the caller no longer waits.

        So work for a caller that was cancelled or timed out ends at once. One scope
        a Deferred; when the answer was given the scope is cancelled too.
        """
        self._request.on_settled = scope.cancel
        if self._request.settled:
            scope.cancel()


DEFAULT_CAPACITY: Final = 1_000
