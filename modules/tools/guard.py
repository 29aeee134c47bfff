"""What stands before and around the call of a tool: approval, and retries."""

import math
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final, TypeAlias, TypeVar, cast

import trio

from dspex.modules.tools.errors import (
    ToolCallError,
    ToolDefinitionError,
    ToolDeniedError,
)
from dspex.runtime.log import get_logger

T = TypeVar("T")
ToolT = TypeVar("ToolT")

# Any: a tool takes what its function, or its server, says.
Arguments: TypeAlias = Mapping[str, Any]

log = get_logger()

APPROVE_SECONDS: Final = 3600.0
"""How long an approval may take, unless told otherwise: a person may be asked."""


def check_limits(
    name: str,
    *,
    max_concurrency: int,
    retries: int,
    **seconds: float,
) -> None:
    """Refuse limits that no call could keep.

    Raises:
        ToolDefinitionError: one is none; says which, and what it may be.
    """
    for option, value in seconds.items():
        if not _is_number(value) or math.isnan(value) or value <= 0:
            raise ToolDefinitionError(
                name, f"needs {option} of more than 0 seconds, not {value!r}"
            )
    for option, count, least in (
        ("max_concurrency", max_concurrency, 1),
        ("retries", retries, 0),
    ):
        if not isinstance(cast("object", count), int) or count < least:
            raise ToolDefinitionError(
                name, f"needs {option} of {least} or more, not {count!r}"
            )


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


async def ask_approval(
    name: str,
    tool: ToolT,
    arguments: Arguments,
    approve: Callable[[ToolT, Arguments], Awaitable[bool | str]] | None,
    *,
    seconds: float = APPROVE_SECONDS,
) -> None:
    """Pass when the hook gives True, or there is none.

    A hook that raises has not said yes: its error is logged, and the call refused.

    Raises:
        ToolDeniedError: it gave False, or why not, or raised, or said nothing within
            `seconds`.
    """
    if approve is None:
        return
    answer: object = f"nobody answered within {seconds:g}s"
    try:
        with trio.move_on_after(seconds):
            answer = await approve(tool, arguments)
    # The edge to a user's hook: its caller is refused, and no one else is hurt.
    except Exception as error:
        log.exception("approval_failed", tool=name)
        raise ToolDeniedError(name, "its approval could not be asked for") from error
    if answer is not True:
        raise ToolDeniedError(name, answer if isinstance(answer, str) else "")


async def with_retries(work: Callable[[], Awaitable[T]], retries: int) -> T:
    """Do the work, and again after a failure, up to `retries` times.

    Raises:
        ToolCallError: the last failure.
    """
    for _ in range(retries):
        try:
            return await work()
        except ToolCallError:
            continue
    return await work()
