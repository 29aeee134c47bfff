"""Wake: what a blocked task is sent when there is nothing to tell it."""

from collections.abc import AsyncGenerator, Generator
from typing import Final, TypeVar

from outcome import Outcome

ResultT = TypeVar("ResultT")


class _Woken(Outcome[None]):
    """A `Value(None)` that serves every time.

    A Value may be unwrapped only once, and to make and unwrap one takes half a
    microsecond, twice in each call.
    """

    __slots__ = ()

    def unwrap(self) -> None:
        """Give nothing."""

    def send(self, gen: Generator[ResultT, None, object]) -> ResultT:
        """Send nothing into a generator."""
        return gen.send(None)

    async def asend(self, agen: AsyncGenerator[ResultT, None]) -> ResultT:
        """Send nothing into an async generator."""
        return await agen.asend(None)


WOKEN: Final = _Woken()
