"""RunBoard: which runs a process has, and who waits for their end."""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

import trio

from dspex.runtime.engine.run import Run
from dspex.runtime.engine.wanted_runs import WantedRuns

# Hears of the end of each run; None: this process has it no more.
OnEnd = Callable[[str, Run | None], None]


@dataclass(slots=True)
class RunWaiter:
    """Somebody waits here for the end of a run of this process."""

    done: trio.Event = field(default_factory=trio.Event)
    run: Run | None = None
    fault: Exception | None = None
    waiting: int = 0


class RunBoard:
    """What outlives an incarnation of DurableRuns: who waits, what it was."""

    def __init__(self, *, max_runs: int, on_end: OnEnd) -> None:
        self.max_runs = max_runs
        self._on_end = on_end
        self.worker: str | None = None
        self.is_draining = False
        self.reserved: set[str] = set()
        self.active: set[str] = set()
        self.untold: set[str] = set()
        """Reserved or begun here, whose end was not told yet."""
        self.idle = trio.Event()
        """Set when nothing runs any more, after `is_draining` was."""
        self.own: deque[str] = deque()
        """Accepted here, pending: not yet claimed."""
        self.wanted = WantedRuns()
        self._waiters: dict[str, RunWaiter] = {}

    def reserve(self, run: str) -> str | None:
        """Take a place for a run that is started at once; give the worker's id."""
        # Who has the run already, by its key, starts nothing.
        if not self.free or self.own or self.worker is None or self.has(run):
            return None
        self.reserved.add(run)
        self.untold.add(run)
        return self.worker

    def begin(self, run: str) -> None:
        """Take note that a run executes here."""
        self.active.add(run)
        self.untold.add(run)

    def give_back(self, run: str, owner: str | None) -> None:
        """Take a `reserve` back that gave this owner."""
        if owner is not None:
            self.reserved.discard(run)
            self.untold.discard(run)

    @property
    def free(self) -> int:
        """How many more runs may run now."""
        if self.is_draining:
            return 0
        return max(0, self.max_runs - len(self.active) - len(self.reserved))

    def has(self, run: str) -> bool:
        """Whether `tell` will be called for this run, unless the actor dies."""
        return run in self.active or run in self.reserved

    @property
    def waited_for(self) -> int:
        """How many runs have somebody who waits here."""
        return len(self._waiters)

    def expect(self, run: str) -> RunWaiter:
        """Get ready to wait for a run; `forget` it afterwards."""
        waiter = self._waiters.setdefault(run, RunWaiter())
        waiter.waiting += 1
        return waiter

    def forget(self, run: str, waiter: RunWaiter) -> None:
        """Take an `expect` back."""
        waiter.waiting -= 1
        if not waiter.waiting and self._waiters.get(run) is waiter:
            del self._waiters[run]

    def tell_fault(self, run: str, fault: Exception) -> None:
        """Wake who waits with what keeps the run from going on; it is unfinished."""
        waiter = self._waiters.pop(run, None)
        if waiter is not None:
            waiter.fault = fault
            waiter.done.set()

    def tell(self, run: str, ended: Run | None) -> None:
        """Wake who waits; None: it is not this process's any more, ask the store."""
        self.untold.discard(run)
        self._on_end(run, ended)
        waiter = self._waiters.pop(run, None)
        if waiter is not None:
            waiter.run = ended
            waiter.done.set()
