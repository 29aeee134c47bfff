"""Exit reasons: why an actor ended, in OTP's words.

A reason is any value. Some are special to the kernel:

- `NORMAL`, `SHUTDOWN`, `Shutdown(detail)`: an orderly end;
- `KILLED`: it was killed from outside and could not object;
- `NOPROC`: there was no such actor in the first place;
- an exception: it crashed with it.
"""

from dataclasses import dataclass
from typing import Final, TypeAlias, cast

import trio

ExitReason: TypeAlias = object

NORMAL: Final = "normal"
SHUTDOWN: Final = "shutdown"
KILL: Final = "kill"
KILLED: Final = "killed"
NOPROC: Final = "noproc"


@dataclass(frozen=True, slots=True)
class Shutdown:
    """An orderly end with a detail: OTP's `{shutdown, Detail}`."""

    detail: object


def is_orderly(reason: ExitReason) -> bool:
    """Whether `reason` is normal, shutdown or `Shutdown(...)`: not a crash."""
    # Of texts only: what `==` gives of any other value is that value's own affair.
    if isinstance(reason, str):
        return reason in (NORMAL, SHUTDOWN)
    return isinstance(reason, Shutdown)


def is_killed(reason: ExitReason) -> bool:
    """Whether `reason` is that of an actor that was killed."""
    return isinstance(reason, str) and reason == KILLED


# What no code raises as its own crash: orders to stop, and groups that may hold one.
_ORDERS: Final = (
    KeyboardInterrupt,
    SystemExit,
    GeneratorExit,
    trio.Cancelled,
    BaseExceptionGroup,
)


def is_crash(error: BaseException) -> bool:
    """Whether an error is the crash of the code that raised it, as any throw in OTP.

    Not only an Exception: asyncio's CancelledError, for one, is none.
    """
    return isinstance(error, Exception) or not isinstance(error, _ORDERS)


def find_interrupt(error: BaseException) -> BaseException | None:
    """Give the KeyboardInterrupt or SystemExit in an error, if there is one."""
    if isinstance(error, BaseExceptionGroup):
        group = cast("BaseExceptionGroup[BaseException]", error)
        found = map(find_interrupt, group.exceptions)
        return next((inner for inner in found if inner is not None), None)
    return error if isinstance(error, KeyboardInterrupt | SystemExit) else None


def describe(reason: ExitReason) -> str:
    """Give a reason as one line for logs and error messages."""
    if isinstance(reason, BaseException):
        text = text_of(reason)
        return f"{type(reason).__name__}: {text}" if text else type(reason).__name__
    if isinstance(reason, Shutdown):
        return f"shutdown: {describe(reason.detail)}"
    return text_of(reason)


def text_of(reason: object) -> str:
    """Give what can be written anywhere, whatever the reason's `str` does."""
    try:
        text = str(reason)
    except Exception as error:  # noqa: BLE001 - an error of the reason's own
        return f"(its text cannot be had: {type(error).__name__})"
    return text if text.isascii() else text.encode(errors="backslashreplace").decode()
