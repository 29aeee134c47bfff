"""Schedule: which message, model call or commit a plan's faults hit."""

from collections import Counter
from collections.abc import Callable
from fnmatch import fnmatchcase
from typing import Final

import trio

from dspex.testing.fault_plan import Fault, FaultPlan, Injected

MAX_REMEMBERED: Final = 100_000


class Schedule:
    """Counts what each fault matches; `injected` tells what was hit."""

    def __init__(self, plan: FaultPlan) -> None:
        self.injected: list[Injected] = []
        self._plan = plan
        self._counts: Counter[int] = Counter()
        # Threads ask, too, so it is not `trio.current_time`.
        self._clock = trio.lowlevel.current_clock()
        self._began = self._clock.current_time()

    @property
    def now(self) -> float:
        """Seconds since the injection began, on trio's clock."""
        return self._clock.current_time() - self._began

    def meet(
        self,
        name: str,
        method: str,
        *,
        counts: Callable[[Fault], bool],
        heed: Callable[[Fault], bool] = lambda _: True,
    ) -> list[Fault]:
        """Give the faults that hit this; at most one of those that `heed` takes.

        Those that it does not take come beside it; what they do is not noted here.
        """
        now = self.now
        found: list[Fault] = []
        is_hit = False
        for index, fault in enumerate(self._plan.faults):
            if not counts(fault) or not fault.matches(name, method, now=now):
                continue
            self._counts[index] += 1
            count = self._counts[index]
            if not fault.hits(count, seed=self._plan.seed, index=index):
                continue
            if heed(fault):
                if is_hit:
                    continue
                is_hit = True
                self.note(fault, name, method, count=count)
            found.append(fault)
        return found

    def meet_target(
        self, name: str, method: str, *, counts: Callable[[Fault], bool]
    ) -> Fault | None:
        """Give the fault that hits a model call or a commit."""

        def counts_here(fault: Fault) -> bool:
            return counts(fault) and fnmatchcase(name, fault.target)

        return next(iter(self.meet(name, method, counts=counts_here)), None)

    def note(self, fault: Fault, name: str, method: str, *, count: int = 1) -> None:
        """Write down what was done."""
        if len(self.injected) < MAX_REMEMBERED:
            done = Injected(self.now, fault.kind, name, method, count, fault.on)
            self.injected.append(done)
