"""Telemetry: what happens to actors, told to whoever listens, as it happens."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

from dspex.runtime.reasons import ExitReason
from dspex.runtime.ref import ActorRef

AnyRef = ActorRef[Any]  # Any: actors of every class


@dataclass(frozen=True, slots=True)
class ActorStarted:
    """An actor's init has succeeded."""

    ref: AnyRef


@dataclass(frozen=True, slots=True)
class ActorExited:
    """An actor is gone; also one whose init failed."""

    ref: AnyRef
    reason: ExitReason


Event: TypeAlias = ActorStarted | ActorExited
Listener: TypeAlias = Callable[[Event], None]


class Telemetry:
    """Calls each listener synchronously, in the order things happen.

    A listener must be quick and must not raise: it runs inside the kernel.
    """

    __slots__ = ("listeners",)

    def __init__(self) -> None:
        self.listeners: tuple[Listener, ...] = ()

    def attach(self, listener: Listener) -> Callable[[], None]:
        """Listen from now on; call the answer to stop listening."""
        self.listeners = (*self.listeners, listener)

        def detach() -> None:
            self.listeners = tuple(it for it in self.listeners if it is not listener)

        return detach

    def emit(self, event: Event) -> None:
        """Tell everyone who listens."""
        for listener in self.listeners:
            listener(event)
