"""Timers: one heap per node for call deadlines and delayed messages.

A cancel scope around each call would halve the call rate (6 us each). Most calls are
answered long before their deadline, so what is added first lies unsorted, and what
has settled by the time that is sorted never gets into the heap.
"""

import heapq
import itertools
import math
from collections.abc import Callable
from typing import Protocol

import trio


class Expiring(Protocol):
    """What can wait for its deadline."""

    deadline: float
    settled: bool

    def expire(self) -> None:
        """Do what is due; not called once settled."""
        ...


class Timer:
    """A delayed message that can be taken back: `send_after`, `cancel_timer`."""

    __slots__ = ("_action", "deadline", "settled")

    def __init__(self, deadline: float, action: Callable[[], None]) -> None:
        self.deadline = deadline
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


_MIN_UNSORTED = 256


class Timers:
    """Expires each entry that is not settled when its time has come."""

    __slots__ = ("_armed", "_heap", "_order", "_scope", "_sort_at", "_unsorted", "now")

    def __init__(self) -> None:
        self.now = trio.lowlevel.current_clock().current_time
        self._unsorted: list[Expiring] = []
        self._sort_at = _MIN_UNSORTED
        self._heap: list[tuple[float, int, Expiring]] = []
        self._order = itertools.count()
        self._scope: trio.CancelScope | None = None
        self._armed = math.inf

    def add(self, entry: Expiring) -> None:
        """Expire `entry` at its deadline on trio's clock.

        Raises:
            ValueError: the deadline is NaN.
        """
        if entry.deadline != entry.deadline:  # it would stop all the others, too
            raise ValueError("the seconds to wait must be a number, not NaN")
        unsorted = self._unsorted
        unsorted.append(entry)
        if entry.deadline < self._armed:
            self._armed = entry.deadline
            if self._scope is not None:
                self._scope.deadline = entry.deadline
        if len(unsorted) >= self._sort_at:
            self._sort()

    def _sort(self) -> None:
        # The settled go; as there are as many unsorted ones as were left in the heap
        # the last time, this costs each entry the same however many wait.
        heap = [known for known in self._heap if not known[2].settled]
        heap += [
            (entry.deadline, next(self._order), entry)
            for entry in self._unsorted
            if not entry.settled
        ]
        heapq.heapify(heap)
        self._heap = heap
        self._unsorted.clear()
        self._sort_at = max(_MIN_UNSORTED, len(heap))

    async def run(self) -> None:
        """Sleep until the next deadline, expire what is due, for ever."""
        while True:
            with trio.CancelScope(deadline=self._armed) as self._scope:
                await trio.sleep_forever()
            self._scope = None
            self._expire(self.now())

    def _expire(self, now: float) -> None:
        self._sort()
        while self._heap and self._heap[0][0] <= now:
            entry = heapq.heappop(self._heap)[2]
            if not entry.settled:
                entry.expire()
        first = self._heap[0][0] if self._heap else math.inf
        self._armed = min([first, *(entry.deadline for entry in self._unsorted)])
