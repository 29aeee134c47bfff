"""Faults of the wall clock: `time.time` jumps or runs wrong, trio's clock does not."""

import time
from collections.abc import Callable

from dspex.testing.fault_plan import Fault


class ClockFaults:
    """Puts `time.time` wrong for this whole process, between `open` and `close`.

    That is where the runtime reads the wall clock: times of runs and events, leases,
    entries of caches, dates in headers. `now` gives the seconds of the injection.
    """

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._wrong: list[tuple[Fault, float]] = []
        self._real: Callable[[], float] | None = None

    def hit(self, fault: Fault, *, at: float) -> None:
        """Let a fault count from `at` on, to its `until`."""
        self._wrong.append((fault, at))
        if self._real is None:
            self._real = time.time
            time.time = self._read

    def close(self) -> None:
        """Put the clock right again."""
        if self._real is not None:
            if time.time == self._read:
                time.time = self._real
            self._wrong.clear()

    def _read(self) -> float:
        assert self._real is not None
        now = self._now()
        offset = 0.0
        for fault, at in self._wrong:
            if at <= now <= fault.until:
                elapsed = 1.0 if fault.kind == "jump" else now - at
                offset += fault.seconds * elapsed
        return self._real() + offset
