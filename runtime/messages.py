"""Messages of the kernel itself, as an actor's `handle_info` sees them."""

from dataclasses import dataclass
from typing import Any, Final

from dspex.runtime.reasons import ExitReason
from dspex.runtime.ref import ActorRef


@dataclass(frozen=True, slots=True)
class Down:
    """A monitored actor ended: OTP's `{'DOWN', Ref, process, Pid, Reason}`."""

    monitor: int
    ref: ActorRef[Any]  # Any: a monitor does not care for the class
    reason: ExitReason


@dataclass(frozen=True, slots=True)
class Exit:
    """An exit signal that reached an actor that traps exits: `{'EXIT', ...}`.

    `ref` is None when a stranger sent it by `ref.exit(reason)`.
    """

    ref: ActorRef[Any] | None  # Any: a link does not care for the class
    reason: ExitReason


class Timeout:
    """No message came within the idle timeout: OTP's `timeout`."""

    def __repr__(self) -> str:
        return "TIMEOUT"


TIMEOUT: Final = Timeout()
