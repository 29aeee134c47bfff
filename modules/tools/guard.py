"""What stands before and around the call of a tool: approval, and retries."""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeAlias, TypeVar

from dspex.modules.tools.errors import ToolCallError, ToolDeniedError
from dspex.runtime.log import get_logger

T = TypeVar("T")
ToolT = TypeVar("ToolT")

# Any: a tool takes what its function, or its server, says.
Arguments: TypeAlias = Mapping[str, Any]

log = get_logger()


async def ask_approval(
    name: str,
    tool: ToolT,
    arguments: Arguments,
    approve: Callable[[ToolT, Arguments], Awaitable[bool | str]] | None,
) -> None:
    """Pass when the hook gives True, or there is none.

    A hook that raises has not said yes: its error is logged, and the call refused.

    Raises:
        ToolDeniedError: it gave False, or why not, or raised.
    """
    if approve is None:
        return
    try:
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
