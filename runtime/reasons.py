"""Exit reasons: why an actor ended, in OTP's words.

A reason is any value. Some are special to the kernel:

- `NORMAL`, `SHUTDOWN`, `Shutdown(detail)`: an orderly end;
- `KILLED`: it was killed from outside and could not object;
- `NOPROC`: there was no such actor in the first place;
- an exception: it crashed with it.
"""

from dataclasses import dataclass
from typing import Final, TypeAlias

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
    return reason in (NORMAL, SHUTDOWN) or isinstance(reason, Shutdown)


def describe(reason: ExitReason) -> str:
    """Give a reason as one line for logs and error messages."""
    if isinstance(reason, BaseException):
        text = _text(reason)
        return f"{type(reason).__name__}: {text}" if text else type(reason).__name__
    if isinstance(reason, Shutdown):
        return f"shutdown: {describe(reason.detail)}"
    return _text(reason)


def _text(reason: object) -> str:
    """Give what can be written anywhere, whatever the reason's `str` does."""
    try:
        text = str(reason)
    except Exception as error:  # noqa: BLE001 - an error of the reason's own
        return f"(its text cannot be had: {type(error).__name__})"
    return text if text.isascii() else text.encode(errors="backslashreplace").decode()
