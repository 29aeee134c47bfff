"""WorkerLease: whether this worker may still act for the runs that it has."""

import math
import time
from collections.abc import Callable

import trio

from dspex.runtime.journal import StoreError


class WorkerLease:
    """Lasts for some seconds from each beat of this worker that is in the store.

    After that others may take its runs over. A process that was stopped, or stalled,
    for so long must not go on as if nothing had been: until its next beat it does not
    know whose its runs are.
    """

    def __init__(
        self, seconds: float, *, now: Callable[[], float] = time.monotonic
    ) -> None:
        self.now = now
        self._seconds = seconds
        self._ends = -math.inf
        self._fault: StoreError | None = None
        self._told = trio.Event()

    def renew(self, since: float) -> None:
        """Let it last from the time when a beat was sent that has arrived."""
        self._ends = since + self._seconds
        self._fault = None
        self._tell()

    def fail(self, fault: StoreError) -> None:
        """Take note that a beat could not be written."""
        self._fault = fault
        self._tell()

    def _tell(self) -> None:
        self._told.set()
        self._told = trio.Event()

    async def hold(self) -> None:
        """Return while it lasts; when it does not, wait for the next beat.

        No checkpoint while it lasts. Whose runs are lost is cancelled here.

        Raises:
            StoreError: the beats cannot be written.
        """
        while self.now() >= self._ends:
            if self._fault is not None:
                raise self._fault
            await self._told.wait()
