"""What a worker does for its memory."""

import gc
import weakref

import trio
from trio.testing import MockClock

from dspex.worker.garbage import keep_tidy


class Cycle:
    """It refers to itself."""

    def __init__(self) -> None:
        self.it = self


async def test_cycles_are_collected_though_python_has_no_reason_yet(
    autojump_clock: MockClock,
) -> None:
    gc.disable()
    try:
        gone = weakref.ref(Cycle())
        async with trio.open_nursery() as nursery:
            nursery.start_soon(keep_tidy)
            await trio.sleep(5)
            assert gone() is not None
            await trio.sleep(10)
            assert gone() is None
            nursery.cancel_scope.cancel()
    finally:
        gc.enable()
