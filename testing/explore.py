"""Explore: run a scenario under many fault plans, and shrink the one that breaks it."""

import random
from collections.abc import (
    Awaitable,
    Callable,
    Generator,
    Iterable,
    Mapping,
    Sequence,
)
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib import import_module
from typing import Any, Final, Literal, TypeAlias, cast

import trio
import trio.testing

from dspex.modules import Module
from dspex.providers import LM
from dspex.runtime.engine import Program
from dspex.runtime.errors import DspexError
from dspex.testing.fault_plan import Fault, FaultPlan
from dspex.testing.fault_schedule import FaultTally, Tallies, watch_schedules
from dspex.testing.program_scenario import program_scenario
from dspex.testing.scripted_lm import ScriptedLM

Scenario: TypeAlias = Callable[[FaultPlan], Awaitable[object]]
Clock: TypeAlias = Literal["virtual", "real"]

_MAX_FAULTS: Final = 3
_MAX_NTH: Final = 8


class ScenarioError(DspexError):
    """A scenario cannot be explored: it fails without any fault, for example."""


@dataclass(frozen=True, slots=True)
class Failure:
    """The shortest plan found under which the scenario fails, and how it fails."""

    plan: FaultPlan
    error: BaseException
    found: FaultPlan
    """The plan that failed first, before it was shrunk."""

    def __str__(self) -> str:
        kind = type(self.error).__name__
        return f"{kind}: {self.error}\n{self.plan}\nas YAML:\n{self.plan.to_yaml()}"


@dataclass(frozen=True, slots=True)
class Exploration:
    """How many plans were tried, the failure if there was one, and who struck.

    `tallies` has each fault that a plan had, and how often it struck in all of them.
    """

    plans: int
    failure: Failure | None
    tallies: tuple[FaultTally, ...] = ()

    def check(self) -> None:
        """Raise if a plan broke the scenario, or a fault found nothing to strike.

        Raises:
            AssertionError: with the shortest plan, ready to be replayed, or with the
                names that there were.
        """
        if self.failure is not None:
            text = f"broken by plan {self.plans} of those tried\n{self.failure}"
            raise AssertionError(text) from self.failure.error
        missed = [it for it in self.tallies if not it.struck and not it.matched]
        if missed:
            listed = "\n".join(f"  {it}" for it in missed)
            raise AssertionError(f"nothing broke in {self.plans} plans, but\n{listed}")


class HungError(Exception):
    """The scenario had not ended after its time on the virtual clock."""

    def __init__(self, seconds: float) -> None:
        super().__init__(
            f"the scenario had not ended after {seconds:g} seconds of its clock"
        )


def explore(
    scenario: Scenario | Program,
    *,
    faults: Sequence[Fault],
    seeds: Iterable[int] = range(200),
    timeout: float = 300.0,
    clock: Clock = "virtual",
    lm: Callable[[], LM] | None = None,
    inputs: Mapping[str, Any] | None = None,  # Any: as the signatures declare
    modules: Mapping[str, Callable[[], Module]] | None = None,
) -> Exploration:
    """Run `scenario(plan)` under a plan for each seed, until one makes it raise.

    A plan has one to three of `faults`; one without `nth` or `probability` gets an
    `nth` by the seed, unless it comes by time. Each try has a trio of its own, whose
    schedule depends on the seed only, and a virtual clock. What waits for threads,
    processes or sockets needs the real `clock`, and then is replayed as exactly as
    they allow.

    A `Program` is run once a try on its `inputs`, with the model that `lm` makes (one
    whose answers fit its requests where it is left out) and the `modules` that a
    runtime is given; see `program_scenario`. Call it outside of trio.

    Raises:
        ScenarioError: the scenario fails without any fault.
    """
    if isinstance(scenario, Program):
        make_lm = lm or ScriptedLM
        scenario = program_scenario(
            scenario, lm=make_lm, inputs=inputs or {}, modules=modules
        )
    elif lm is not None or inputs is not None or modules is not None:
        raise ScenarioError(
            "lm, inputs and modules are for a Program: a scenario has its own"
        )
    calm = replay(scenario, FaultPlan(), timeout=timeout, clock=clock)
    if calm is not None:
        raise ScenarioError(f"the scenario fails without faults: {calm}") from calm
    tried = 0
    tallies: Tallies = {}
    for seed in seeds:
        tried += 1
        plan = make_plan(faults, seed)
        with watch_schedules() as schedules:
            error = replay(scenario, plan, timeout=timeout, clock=clock)
        for schedule in schedules:
            _add_up(schedule.tallies, faults, tallies)
        if error is not None:

            def fails(smaller: FaultPlan) -> BaseException | None:
                return replay(scenario, smaller, timeout=timeout, clock=clock)

            short, error = _shrink(plan, error, fails)
            found = Failure(short, error, plan)
            return Exploration(tried, found, tuple(tallies.values()))
    return Exploration(tried, None, tuple(tallies.values()))


def _add_up(found: Tallies, faults: Sequence[Fault], total: Tallies) -> None:
    """Add what became of a plan's faults to that of those it was made of."""
    for fault, tally in found.items():
        origin = fault if fault in faults else replace(fault, nth=None)
        if origin in faults:
            total.setdefault(origin, FaultTally(origin)).add(tally)


def make_plan(faults: Sequence[Fault], seed: int) -> FaultPlan:
    """Give the plan that a seed makes of these faults."""
    chance = random.Random(seed)
    chosen = chance.choices(faults, k=chance.randint(1, _MAX_FAULTS))
    concrete = [
        replace(it, nth=chance.randint(1, _MAX_NTH))
        if it.nth is None and it.probability is None and not it.is_timed
        else it
        for it in chosen
    ]
    return FaultPlan(tuple(concrete), seed)


def replay(
    scenario: Scenario,
    plan: FaultPlan,
    *,
    timeout: float = 300.0,
    clock: Clock = "virtual",
) -> BaseException | None:
    """Run a scenario under a plan, the same way each time; give what it raised.

    Python's `random` is seeded for it, too, and put back.

    Raises:
        ScenarioError: it was called inside of trio.
    """
    if trio.lowlevel.in_trio_run():
        raise ScenarioError("a scenario has a trio of its own: call it outside of trio")

    async def main() -> None:
        with trio.move_on_after(timeout) as scope:
            await scenario(plan)
        if scope.cancelled_caught:
            raise HungError(timeout)

    virtual = trio.testing.MockClock(autojump_threshold=0)
    with _chances_of(plan.seed):
        try:
            trio.run(main, clock=virtual if clock == "virtual" else None)
        except Exception as error:  # noqa: BLE001 - the finding
            return _innermost(error)
    return None


@contextmanager
def _chances_of(seed: int) -> Generator[None]:
    """Make trio's choice of the next task, and `random`, depend on a seed only."""
    # Trio has no public way; hypothesis-trio uses the same two names.
    run: Any = import_module("trio._core._run")  # Any: private
    schedule, chances = run._r.getstate(), random.getstate()
    before = run._ALLOW_DETERMINISTIC_SCHEDULING
    run._r.seed(seed)
    random.seed(seed)
    run._ALLOW_DETERMINISTIC_SCHEDULING = True
    try:
        yield
    finally:
        run._r.setstate(schedule)
        random.setstate(chances)
        run._ALLOW_DETERMINISTIC_SCHEDULING = before


def _shrink(
    plan: FaultPlan,
    error: BaseException,
    fails: Callable[[FaultPlan], BaseException | None],
) -> tuple[FaultPlan, BaseException]:
    """Leave faults out, and hit less and earlier, while it still fails."""
    is_shorter = True
    while is_shorter:
        is_shorter = False
        for smaller in _smaller(plan):
            found = fails(smaller)
            if found is not None:
                plan, error, is_shorter = smaller, found, True
                break
    return plan, error


def _smaller(plan: FaultPlan) -> Iterable[FaultPlan]:
    faults = plan.faults
    if len(faults) > 1:
        for index in range(len(faults)):
            yield replace(plan, faults=(*faults[:index], *faults[index + 1 :]))
    for index, fault in enumerate(faults):
        for less in _lesser(fault):
            yield replace(plan, faults=(*faults[:index], less, *faults[index + 1 :]))


def _lesser(fault: Fault) -> Iterable[Fault]:
    if fault.probability is not None and fault.every is None:
        for nth in range(1, _MAX_NTH + 1):
            yield replace(fault, probability=None, nth=nth)
    for nth in range(1, fault.nth or 1):
        yield replace(fault, nth=nth)
    for times in range(1, fault.times):
        yield replace(fault, times=times)


def _innermost(error: BaseException) -> BaseException:
    if not isinstance(error, BaseExceptionGroup):
        return error
    group = cast("BaseExceptionGroup[BaseException]", error)
    return _innermost(group.exceptions[0]) if len(group.exceptions) == 1 else group
