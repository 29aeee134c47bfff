"""Timers: one heap per node for call deadlines and delayed messages.

A cancel scope around each call would halve the call rate (6 us each). Entries of
answered calls stay in the heap until they are due or outnumber the live ones.
"""

import heapq
import itertools
import math
from collections.abc import Callable
from typing import Protocol

import trio


class Expiring(Protocol):
    """What can wait in the heap."""

    settled: bool

    def expire(self) -> None:
        """Do what is due; not called once settled."""
        ...


class Timer:
    """A delayed message that can be taken back: `send_after`, `cancel_timer`."""

    __slots__ = ("_action", "settled")

    def __init__(self, action: Callable[[], None]) -> None:
        self._action = action
        self.settled = False

    def cancel(self) -> bool:
        """Take it back; False if it is too late."""
        was_waiting = not self.settled
        self.settled = True
        return was_waiting

    def expire(self) -> None:
        """Send what is due."""
        self.settled = True
        self._action()


_MIN_COMPACTION = 256


class Timers:
    """Expires each entry that is not settled when its time has come."""

    __slots__ = ("_armed", "_compact_at", "_heap", "_order", "_scope", "now")

    def __init__(self) -> None:
        self.now = trio.lowlevel.current_clock().current_time
        self._heap: list[tuple[float, int, Expiring]] = []
        self._order = itertools.count()
        self._compact_at = _MIN_COMPACTION
        self._scope: trio.CancelScope | None = None
        self._armed = math.inf

    def add(self, deadline: float, entry: Expiring) -> None:
        """Expire `entry` at `deadline` on trio's clock."""
        heap = self._heap
        if len(heap) >= self._compact_at:
            heap = self._heap = [known for known in heap if not known[2].settled]
            heapq.heapify(heap)
            self._compact_at = max(_MIN_COMPACTION, 2 * len(heap))
        heapq.heappush(heap, (deadline, next(self._order), entry))
        if deadline < self._armed:
            self._armed = deadline
            if self._scope is not None:
                self._scope.deadline = deadline

    async def run(self) -> None:
        """Sleep until the next deadline, expire what is due, for ever."""
        while True:
            with trio.CancelScope(deadline=self._armed) as self._scope:
                await trio.sleep_forever()
            self._scope = None
            self._expire(self.now())

    def _expire(self, now: float) -> None:
        heap = self._heap
        while heap and (heap[0][2].settled or heap[0][0] <= now):
            entry = heapq.heappop(heap)[2]
            if not entry.settled:
                entry.expire()
        self._armed = heap[0][0] if heap else math.inf
