"""Schedule: which message, model call or commit a plan's faults hit."""

from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any, Final, TypeAlias

import trio

from dspex.testing.fault_plan import Fault, FaultPlan, Injected

MAX_REMEMBERED: Final = 100_000
_MAX_NAMES: Final = 12


@dataclass(slots=True)
class FaultTally:
    """What became of a fault: how often it struck, and of how many that matched.

    `others` are names that there were and that it does not match, some of them.
    """

    fault: Fault
    struck: int = 0
    matched: int = 0
    others: set[str] = field(default_factory=set[str])

    def pass_by(self, name: str) -> None:
        """Take note of what it does not match."""
        if len(self.others) < _MAX_NAMES:
            self.others.add(name)

    def add(self, other: "FaultTally") -> None:
        """Count what another schedule saw of the same fault."""
        self.struck += other.struck
        self.matched += other.matched
        for name in other.others:
            self.pass_by(name)

    def to_data(self) -> dict[str, Any]:  # Any: JSON
        """Give plain data, without the fault."""
        return {
            "struck": self.struck,
            "matched": self.matched,
            "others": sorted(self.others),
        }

    def __str__(self) -> str:
        if self.struck:
            return f"{self.fault}: struck {self.struck} times"
        if self.matched:
            return f"{self.fault}: never struck, and {self.matched} matched it"
        names = ", ".join(sorted(self.others)) or "nothing that it could strike"
        return (
            f"{self.fault}: never struck, for nothing matched it; there were: {names}"
        )


Tallies: TypeAlias = dict[Fault, FaultTally]

_watched: ContextVar[list["Schedule"] | None] = ContextVar("_watched", default=None)


@contextmanager
def watch_schedules() -> Generator[list["Schedule"]]:
    """Give the schedules that are made within the block, by whomever."""
    made: list[Schedule] = []
    token = _watched.set(made)
    try:
        yield made
    finally:
        _watched.reset(token)


class Schedule:
    """Counts what each fault matches; `injected` tells what was hit.

    `tallies` has what became of each fault of the plan; equal ones share theirs.
    """

    def __init__(self, plan: FaultPlan) -> None:
        self.injected: list[Injected] = []
        self._plan = plan
        self.tallies: Tallies = {it: FaultTally(it) for it in plan.faults}
        self._tallied = [self.tallies[it] for it in plan.faults]
        self._counts = [0] * len(plan.faults)
        watched = _watched.get()
        if watched is not None:
            watched.append(self)
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
        is_target: bool = False,
    ) -> list[Fault]:
        """Give the faults that hit this; at most one of those that `heed` takes.

        Those that it does not take come beside it; what they do is not noted here.
        `name` is an actor's, or what a fault has as its target.
        """
        now = self.now
        found: list[Fault] = []
        is_hit = False
        for index, fault in enumerate(self._plan.faults):
            if not counts(fault):
                continue
            if not fault.matches(name, method, now=now) or not (
                fnmatchcase(name, fault.target) or not is_target
            ):
                self._tallied[index].pass_by(name if is_target else f"{name}.{method}")
                continue
            self._tallied[index].matched += 1
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
        found = self.meet(name, method, counts=counts, is_target=True)
        return next(iter(found), None)

    def miss(self, fault: Fault, names: Iterable[str]) -> None:
        """Take note that it came by time and found only these."""
        for name in names:
            self.tallies[fault].pass_by(name)

    def note(self, fault: Fault, name: str, method: str, *, count: int = 1) -> None:
        """Write down what was done."""
        self.tallies[fault].struck += 1
        if len(self.injected) < MAX_REMEMBERED:
            done = Injected(self.now, fault.kind, name, method, count, fault.on)
            self.injected.append(done)
