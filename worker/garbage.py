"""Garbage: what a process that serves for long does for its memory."""

import ctypes
import gc
from typing import Any, Final

import trio

_TIDY_SECONDS: Final = 10.0

# Python's own first threshold of 700 is crossed several times within one run, 10,000 by
# 32 runs that wait for the same commit: and nothing of them is garbage.
_YOUNG: Final = 50_000


def settle_memory() -> None:
    """Set aside what the start has made, and look for cycles less often.

    For the process that serves, once it is ready: a full collection no longer walks
    what was imported, and a run costs a third less. An embedded runtime leaves this
    to its host.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(_YOUNG, *gc.get_threshold()[1:])


async def keep_tidy() -> None:
    """Collect cycles and give what is free back to the system, until cancelled.

    Left to itself Python waits for a million new objects before it looks at all of
    them, and a burst of runs that failed or were cancelled stays for as long. And the C
    library keeps what has become free between what is in use. Both take some
    milliseconds here.
    """
    trim: Any = getattr(ctypes.CDLL(None), "malloc_trim", None)  # Any: a C function
    while True:
        await trio.sleep(_TIDY_SECONDS)
        gc.collect()
        if trim is not None:  # glibc's; other libraries have none
            trim(0)
