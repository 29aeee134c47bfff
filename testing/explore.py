"""Explore: run a scenario under many fault plans, and shrink the one that breaks it."""

from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from random import Random
from typing import Any, Final, TypeAlias, cast

import trio
import trio.testing

from dspex.runtime.errors import DspexError
from dspex.testing.fault_plan import Fault, FaultPlan

Scenario: TypeAlias = Callable[[FaultPlan], Awaitable[object]]

_MAX_FAULTS: Final = 3
_MAX_NTH: Final = 8


class ScenarioError(DspexError):
    """A scenario fails without any fault, so that faults can show nothing."""


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
    """How many plans were tried, and the failure if there was one."""

    plans: int
    failure: Failure | None

    def check(self) -> None:
        """Raise if a plan broke the scenario.

        Raises:
            AssertionError: with the shortest plan, ready to be replayed.
        """
        if self.failure is not None:
            text = f"broken by plan {self.plans} of those tried\n{self.failure}"
            raise AssertionError(text) from self.failure.error


class HungError(Exception):
    """The scenario had not ended after its time on the virtual clock."""

    def __init__(self, seconds: float) -> None:
        super().__init__(
            f"the scenario had not ended after {seconds:g} virtual seconds"
        )


def explore(
    scenario: Scenario,
    *,
    faults: Sequence[Fault],
    seeds: Iterable[int] = range(200),
    timeout: float = 300.0,
) -> Exploration:
    """Run `scenario(plan)` under a plan for each seed, until one makes it raise.

    A plan has one to three of `faults`; one without `nth` or `probability` gets an
    `nth` by the seed. Each try has a trio of its own, with a virtual clock and a
    schedule that depends on the seed only. Call it outside of trio.

    Raises:
        ScenarioError: the scenario fails without any fault.
    """
    calm = replay(scenario, FaultPlan(), timeout=timeout)
    if calm is not None:
        raise ScenarioError(f"the scenario fails without faults: {calm}") from calm
    tried = 0
    for seed in seeds:
        tried += 1
        plan = make_plan(faults, seed)
        error = replay(scenario, plan, timeout=timeout)
        if error is not None:
            short, error = _shrink(scenario, plan, error, timeout)
            return Exploration(tried, Failure(short, error, plan))
    return Exploration(tried, None)


def make_plan(faults: Sequence[Fault], seed: int) -> FaultPlan:
    """Give the plan that a seed makes of these faults."""
    random = Random(seed)
    chosen = random.choices(faults, k=random.randint(1, _MAX_FAULTS))
    concrete = [
        replace(it, nth=random.randint(1, _MAX_NTH))
        if it.nth is None and it.probability is None
        else it
        for it in chosen
    ]
    return FaultPlan(tuple(concrete), seed)


def replay(
    scenario: Scenario, plan: FaultPlan, *, timeout: float = 300.0
) -> BaseException | None:
    """Run a scenario under a plan, the same way each time; give what it raised."""

    async def main() -> None:
        with trio.move_on_after(timeout) as scope:
            await scenario(plan)
        if scope.cancelled_caught:
            raise HungError(timeout)

    with _schedule_of(plan.seed):
        try:
            trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
        except Exception as error:  # noqa: BLE001 - the finding
            return _innermost(error)
    return None


class _schedule_of:  # noqa: N801 - used as a context manager
    """Makes trio's choice of the next task depend on a seed, and puts it back."""

    def __init__(self, seed: int) -> None:
        # Trio has no public way; hypothesis-trio uses the same two names.
        self._run: Any = import_module("trio._core._run")  # Any: private
        self._seed = seed

    def __enter__(self) -> None:
        self._state = self._run._r.getstate()
        self._before = self._run._ALLOW_DETERMINISTIC_SCHEDULING
        self._run._r.seed(self._seed)
        self._run._ALLOW_DETERMINISTIC_SCHEDULING = True

    def __exit__(self, *_: object) -> None:
        self._run._r.setstate(self._state)
        self._run._ALLOW_DETERMINISTIC_SCHEDULING = self._before


def _shrink(
    scenario: Scenario, plan: FaultPlan, error: BaseException, timeout: float
) -> tuple[FaultPlan, BaseException]:
    """Leave faults out, and hit earlier messages, while it still fails."""
    is_shorter = True
    while is_shorter:
        is_shorter = False
        for smaller in _smaller(plan):
            found = replay(scenario, smaller, timeout=timeout)
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
        for nth in range(1, fault.nth or 1):
            less = replace(fault, nth=nth)
            yield replace(plan, faults=(*faults[:index], less, *faults[index + 1 :]))


def _innermost(error: BaseException) -> BaseException:
    if not isinstance(error, BaseExceptionGroup):
        return error
    group = cast("BaseExceptionGroup[BaseException]", error)
    return _innermost(group.exceptions[0]) if len(group.exceptions) == 1 else group
