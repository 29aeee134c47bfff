"""Threads that a busy event loop does not starve.

CPython gives its lock to a waiting thread when the running one blocks, or when it has
waited for 5 ms in one piece. A trio loop with something to run in every turn does
neither: each turn lets go for the microsecond of a look at the sockets, too short for
the thread to wake up and long enough to begin its 5 ms anew. With turns of 0.2 ms a
write to the journal was not done after 10 s.

So a loop that does not wait by itself sleeps for a moment now and then, once a thread
has worked for it for some milliseconds. Not earlier: what a thread does quickly anyway
shall not slow the loop down.
"""

import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Final, TypeVar, TypeVarTuple

import trio

ResultT = TypeVar("ResultT")
ArgumentsT = TypeVarTuple("ArgumentsT")

_PATIENCE_SECONDS: Final = 0.005
"""How long a thread may work before the loop makes way for it."""

_BUSY_SECONDS: Final = 0.0005
"""How long the loop then may run before it sleeps."""

PAUSE_SECONDS: Final = 0.00001
"""How long it sleeps; the kernel makes it some 60 us, in which a thread wakes up."""


class _Pauses(trio.abc.Instrument):
    """Makes the loop of one `trio.run` sleep while threads work and it is busy."""

    def __init__(self) -> None:
        self.began: dict[object, float] = {}
        self._rested_at = 0.0

    def before_io_wait(self, timeout: float) -> None:
        """Sleep, unless the loop is about to wait or has done so just now."""
        if not self.began:
            return
        now = time.perf_counter()
        if timeout > 0:
            self._rested_at = now
            return
        oldest = next(iter(self.began.values()))
        if now >= max(oldest + _PATIENCE_SECONDS, self._rested_at + _BUSY_SECONDS):
            time.sleep(PAUSE_SECONDS)
            self._rested_at = time.perf_counter()


_pauses: trio.lowlevel.RunVar[_Pauses | None] = trio.lowlevel.RunVar("dspex_pauses")


@contextmanager
def making_way() -> Generator[None]:
    """Let other threads run for the length of the block, however busy the loop."""
    pauses = _pauses.get(None)
    if pauses is None:
        pauses = _Pauses()
        _pauses.set(pauses)
        trio.lowlevel.add_instrument(pauses)
    thread = object()
    pauses.began[thread] = time.perf_counter()
    try:
        yield
    finally:
        del pauses.began[thread]


async def run_in_thread(
    function: Callable[[*ArgumentsT], ResultT],
    *arguments: *ArgumentsT,
    limiter: trio.CapacityLimiter | None = None,
    abandon_on_cancel: bool = False,
) -> ResultT:
    """Run a function in a thread, as `trio.to_thread.run_sync`, however busy the loop.

    Raises:
        Exception: what the function raises.
    """
    with making_way():
        return await trio.to_thread.run_sync(
            function, *arguments, limiter=limiter, abandon_on_cancel=abandon_on_cancel
        )
