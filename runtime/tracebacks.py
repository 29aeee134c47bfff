"""RecentTracebacks: errors are kept for long, what they hold in memory is not."""

from collections import deque
from typing import Final, cast

_RECENT: Final = 5


class RecentTracebacks:
    """Takes the tracebacks off all errors but the last that were kept.

    A traceback holds the frames of its time, and these hold whatever a whole run has
    made: some 10 kB an error.
    """

    def __init__(self, most: int = _RECENT) -> None:
        self._most = most
        self._errors: deque[BaseException] = deque()

    def keep(self, error: BaseException) -> None:
        """Keep one more; the oldest lose theirs, those of their causes included."""
        self._errors.append(error)
        while len(self._errors) > self._most:
            _take_off(self._errors.popleft())


def _take_off(error: BaseException) -> None:
    found: dict[int, BaseException] = {}
    left: list[BaseException | None] = [error]
    while left:
        it = left.pop()
        if it is None or id(it) in found:
            continue
        found[id(it)] = it
        it.__traceback__ = None
        left += [it.__cause__, it.__context__]
        if isinstance(it, BaseExceptionGroup):
            group = cast("BaseExceptionGroup[BaseException]", it)
            left += group.exceptions
