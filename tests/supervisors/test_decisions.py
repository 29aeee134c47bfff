"""The decisions by themselves: random events, and the invariants that must hold."""

import math
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
)

from dspex.runtime import Actor
from dspex.supervisors import Backoff, ChildSpec, Supervise, SupervisorError
from dspex.supervisors.actions import (
    Failed,
    Halt,
    Ignored,
    Retry,
    Start,
    Started,
    Steps,
    Stop,
    StopTogether,
)
from dspex.supervisors.decisions import Decisions

IDS = ("a", "b", "c", "d")
REASONS = ("normal", "shutdown", "boom")


class DecisionsMachine(RuleBasedStateMachine):
    """Drives a Decisions with random events and outcomes, as a perfect shell."""

    def __init__(self) -> None:
        super().__init__()
        self.halted = False
        self.pids = 0
        self.running: dict[int, str] = {}  # by pid, in start order
        self.retries: list[Retry] = []
        self.now = 0.0

    def perform(self, steps: Steps[Any], outcomes: list[str]) -> Any:
        outcome: object = None
        while True:
            try:
                action = steps.send(outcome)
            except StopIteration as done:
                if isinstance(done.value, Halt):
                    self.halted = True
                return done.value
            outcome = None
            if isinstance(action, Start):
                assert action.child.pid not in self.running, "started twice"
                what = outcomes.pop() if outcomes else "ok"
                if what == "ok":
                    self.pids += 1
                    self.running[self.pids] = action.child.spec.id
                    outcome = Started(self.pids)
                else:
                    outcome = Ignored() if what == "ignore" else Failed("bad")
            elif isinstance(action, Stop):
                del self.running[action.child.pid]
            elif isinstance(action, StopTogether):
                for child in action.children:
                    del self.running[child.pid]
            elif isinstance(action, Retry):
                self.retries.append(action)

    outcomes = st.lists(st.sampled_from(["ok", "ok", "ignore", "error"]), max_size=4)

    @precondition(lambda self: not self.is_up())
    @rule(
        strategy=st.sampled_from(["one_for_one", "one_for_all", "rest_for_one"]),
        restarts=st.lists(
            st.sampled_from(["permanent", "transient", "temporary"]),
            min_size=3,
            max_size=3,
        ),
        intensity=st.integers(0, 3),
        backoff=st.sampled_from([None, Backoff()]),
        outcomes=outcomes,
    )
    def start(
        self,
        strategy: Any,
        restarts: list[Any],
        intensity: int,
        backoff: Backoff | None,
        outcomes: list[str],
    ) -> None:
        specs = [
            ChildSpec(id, Actor, restart=restart)
            for id, restart in zip(IDS, restarts, strict=False)
        ]
        options = Supervise(
            specs, strategy=strategy, intensity=intensity, period=10, backoff=backoff
        )
        self.decisions = Decisions(options, chance=lambda: 0.5)
        self.halted = False
        self.running.clear()
        self.retries.clear()
        self.perform(self.decisions.start(), outcomes)

    def is_up(self) -> bool:
        return hasattr(self, "decisions") and not self.halted

    @precondition(lambda self: self.is_up() and self.running)
    @rule(
        data=st.data(),
        reason=st.sampled_from(REASONS),
        outcomes=outcomes,
        later=st.floats(0, 20),
    )
    def child_exits(
        self, data: st.DataObject, reason: str, outcomes: list[str], later: float
    ) -> None:
        self.now += later
        pid = data.draw(st.sampled_from(sorted(self.running)))
        del self.running[pid]
        self.perform(self.decisions.child_exited(pid, reason, now=self.now), outcomes)

    @precondition(lambda self: self.is_up() and self.retries)
    @rule(outcomes=outcomes)
    def retry(self, outcomes: list[str]) -> None:
        self.now += self.retries[0].seconds
        self.perform(self.decisions.retry(self.retries.pop(0), now=self.now), outcomes)

    @precondition(lambda self: self.is_up())
    @rule(
        id=st.sampled_from(IDS),
        call=st.sampled_from(["start", "terminate", "restart", "delete"]),
        outcomes=outcomes,
    )
    def call(self, id: str, call: str, outcomes: list[str]) -> None:
        try:
            if call == "start":
                self.perform(self.decisions.start_child(ChildSpec(id, Actor)), outcomes)
            elif call == "terminate":
                steps = self.decisions.terminate_child(id, is_alive=lambda _: True)
                self.perform(steps, outcomes)
            elif call == "restart":
                self.perform(self.decisions.restart_child(id), outcomes)
            else:
                self.decisions.delete_child(id)
        except SupervisorError:
            pass

    @precondition(lambda self: self.is_up())
    @rule()
    def stop(self) -> None:
        order: list[int] = []
        steps = self.decisions.stop()
        for action in steps:
            assert isinstance(action, Stop)
            order.append(action.child.pid)
            del self.running[action.child.pid]
        places = list(self.decisions.children)
        assert not self.running
        assert len(order) == len(set(order))
        assert [it.state for it in places] == ["undefined"] * len(places)
        self.halted = True

    @invariant()
    def entries_and_processes_agree(self) -> None:
        if not self.is_up():
            return
        children = list(self.decisions.children)
        ids = [child.spec.id for child in children]
        assert len(ids) == len(set(ids))
        believed = {
            child.pid: child.spec.id for child in children if child.state == "running"
        }
        assert believed == self.running
        assert all(
            child.pid is None for child in children if child.state == "undefined"
        )

    @invariant()
    def a_restarting_child_has_a_retry_on_its_way(self) -> None:
        if not self.is_up():
            return
        coming = [retry.child for retry in self.retries]
        for child in self.decisions.children:
            assert child.state != "restarting" or child in coming


DecisionsMachine.TestCase.settings = settings(
    max_examples=300, stateful_step_count=30, deadline=None
)
TestDecisions = DecisionsMachine.TestCase


@given(
    gaps=st.lists(st.floats(0, 20), max_size=30),
    intensity=st.integers(0, 5),
    period=st.floats(0.1, 30),
)
def test_a_supervisor_halts_exactly_when_one_restart_is_too_many(
    gaps: list[float], intensity: int, period: float
) -> None:
    options = Supervise([ChildSpec("a", Actor)], intensity=intensity, period=period)
    decisions = Decisions(options)
    times: list[float] = []
    pid = 0

    def drive(steps: Steps[Any]) -> Any:
        nonlocal pid
        outcome: object = None
        while True:
            try:
                action = steps.send(outcome)
            except StopIteration as done:
                return done.value
            pid += isinstance(action, Start)
            outcome = Started(pid) if isinstance(action, Start) else None

    drive(decisions.start())
    now = 0.0
    for gap in gaps:
        now += gap
        times.append(now)
        halt = drive(decisions.child_exited(pid, "boom", now=now))
        whole = math.floor if period.is_integer() else float
        recent = [time for time in times if whole(time) >= whole(now) - period]
        assert (halt is not None) == (len(recent) > intensity)
        if halt is not None:
            break


@given(
    restarts=st.integers(1, 2000),
    chance=st.floats(0, 1),
    initial=st.floats(0.01, 1),
    times=st.floats(1, 1000),
    jitter=st.floats(0, 1),
)
def test_backoff_stays_within_its_bounds(
    restarts: int, chance: float, initial: float, times: float, jitter: float
) -> None:
    backoff = Backoff(initial=initial, maximum=initial * times, jitter=jitter)
    assert 0 <= backoff.seconds(restarts, chance) <= backoff.maximum
