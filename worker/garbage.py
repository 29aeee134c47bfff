"""Garbage: what a process that serves for long does for its memory."""

import ctypes
import gc
from typing import Any, Final

import trio

from dspex.runtime.threads import run_in_thread

# What a burst of runs took stays with the C library, in pieces between what is in use:
# it does not give it back by itself.
_TRIM_SECONDS: Final = 30.0

# Python's own first threshold of 700 is crossed several times within one run.
_YOUNG: Final = 10_000


def settle_memory() -> None:
    """Set aside what the start has made, and look for cycles less often.

    For the process that serves, once it is ready: a full collection no longer walks
    what was imported, and a run costs a third less. An embedded runtime leaves this
    to its host.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(_YOUNG, *gc.get_threshold()[1:])


async def trim_memory() -> None:
    """Give what is free back to the system now and then, until cancelled."""
    trim: Any = getattr(ctypes.CDLL(None), "malloc_trim", None)  # Any: a C function
    while trim is not None:  # glibc's; others have none
        await trio.sleep(_TRIM_SECONDS)
        await run_in_thread(trim, 0)
