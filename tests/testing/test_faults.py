"""The fault harness: each fault does its harm, plans are data and replay exactly."""

import subprocess
import time
from pathlib import Path

import pytest
import trio
import trio.testing

from dspex import (
    Actor,
    ChildSpec,
    Module,
    Predict,
    Program,
    Step,
    Supervisor,
    open_node,
)
from dspex.providers import Request
from dspex.runtime import (
    CalleeExitedError,
    CallTimeoutError,
    MailboxFullError,
    Node,
)
from dspex.testing import (
    Fault,
    FaultKind,
    FaultPlan,
    FaultPlanError,
    FaultyLM,
    InjectedCrashError,
    ScenarioError,
    ScriptedLM,
    assert_every_caller_answered,
    assert_every_fault_struck,
    assert_no_orphans,
    assert_no_repeated_effects,
    assert_restarted,
    explore,
    inject,
    replay,
)


class Log(Actor):
    """Keeps what it was told, beyond its own death."""

    def __init__(self, told: list[object]) -> None:
        self._told = told

    async def note(self, value: int) -> int:
        self._told.append(value)
        return value

    async def handle_info(self, message: object) -> None:
        self._told.append(message)


async def start(node: Node, told: list[object]) -> None:
    spec = ChildSpec("log", Log, (told,), name="log")
    await node.start(Supervisor([spec], intensity=100), name="root")


async def test_a_crash_fails_its_caller_and_the_actor_is_restarted(
    autojump_clock: trio.testing.MockClock,
) -> None:
    told: list[object] = []
    async with open_node() as node:
        await start(node, told)
        with inject(node, FaultPlan.of(Fault("crash", "log", "note", nth=2))) as faults:
            log = await node.registry.wait_for("log")
            assert await log.call(Log.note, 1) == 1
            with pytest.raises(CalleeExitedError) as caught:
                await log.call(Log.note, 2)
            assert isinstance(caught.value.reason, InjectedCrashError)
            again = await node.registry.wait_for("log")
            assert await again.call(Log.note, 3) == 3
            assert_restarted(faults, "log", times=1)
            assert_every_caller_answered(faults)
        assert told == [1, 3]
        assert [str(it) for it in faults.injected] == ["0.000 s: crash log.note #2"]
        with pytest.raises(AssertionError, match="restarted 1 times, not 2"):
            assert_restarted(faults, "log", times=2)


@pytest.mark.parametrize("kind", ["hang", "drop"])
async def test_a_hang_or_a_lost_message_times_its_caller_out(
    kind: FaultKind, autojump_clock: trio.testing.MockClock
) -> None:
    told: list[object] = []
    async with open_node(shutdown_timeout=1.0) as node:
        await start(node, told)
        log = await node.registry.wait_for("log")
        with (
            inject(node, FaultPlan.of(Fault(kind, "log"))),
            pytest.raises(CallTimeoutError),
        ):
            await log.call(Log.note, 1, timeout=2.0)
        assert told == []


async def test_a_slow_message_arrives_later(
    autojump_clock: trio.testing.MockClock,
) -> None:
    told: list[object] = []
    async with open_node() as node:
        await start(node, told)
        log = await node.registry.wait_for("log")
        with inject(node, FaultPlan.of(Fault("slow", "log", seconds=3.0))):
            began = trio.current_time()
            assert await log.call(Log.note, 1) == 1
            assert trio.current_time() - began == pytest.approx(3.0)


async def test_duplicates_and_changes_of_order(
    autojump_clock: trio.testing.MockClock,
) -> None:
    told: list[object] = []
    plan = FaultPlan.of(
        Fault("duplicate", "log", "note", nth=1), Fault("reorder", "log", "info", nth=1)
    )
    async with open_node() as node:
        await start(node, told)
        log = await node.registry.wait_for("log")
        with inject(node, plan):
            assert await log.call(Log.note, 1) == 1
            await log.send("first")
            await log.send("second")
            await trio.sleep(0.1)
        assert told == [1, 1, "second", "first"]


async def test_a_full_mailbox_refuses_who_will_not_wait() -> None:
    told: list[object] = []
    async with open_node() as node:
        await start(node, told)
        log = await node.registry.wait_for("log")
        with inject(node, FaultPlan.of(Fault("full", "log", nth=1))):
            with pytest.raises(MailboxFullError):
                log.cast_nowait(Log.note, 1)
            log.cast_nowait(Log.note, 2)
        await log.call(Log.note, 3)
        assert told == [2, 3]


async def test_a_kill_is_no_crash_that_terminate_could_see() -> None:
    told: list[object] = []
    async with open_node() as node:
        await start(node, told)
        log = await node.registry.wait_for("log")
        with inject(node, FaultPlan.of(Fault("kill", "log"))):
            await log.cast(Log.note, 1)
            assert await log.wait_exit() == "killed"


async def test_no_harm_is_done_outside_the_block_or_the_window(
    autojump_clock: trio.testing.MockClock,
) -> None:
    told: list[object] = []
    async with open_node() as node:
        await start(node, told)
        log = await node.registry.wait_for("log")
        window = Fault("crash", "log", after=10.0, until=20.0)
        with inject(node, FaultPlan.of(window)) as faults:
            await log.call(Log.note, 1)
            await trio.sleep(30)
            await log.call(Log.note, 2)
        with inject(node, FaultPlan.of(Fault("crash", "log"))):
            pass
        await log.call(Log.note, 3)
        assert (told, faults.injected) == ([1, 2, 3], [])


async def test_a_caller_left_waiting_is_named(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with open_node(shutdown_timeout=0.1) as node:
        await start(node, [])
        log = await node.registry.wait_for("log")
        with inject(node, FaultPlan.of(Fault("drop", "log"))) as faults:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(log.call, Log.note, 1)
                await trio.testing.wait_all_tasks_blocked()
                with pytest.raises(AssertionError, match=r"1 callers .*log\.note"):
                    assert_every_caller_answered(faults)
                nursery.cancel_scope.cancel()


def test_a_plan_is_data_that_reads_back_the_same() -> None:
    plan = FaultPlan.of(
        Fault("crash", "triage/*", nth=3),
        Fault("slow", method="forward", probability=0.25, seconds=2.0),
        seed=7,
    )
    assert FaultPlan.from_yaml(plan.to_yaml()) == plan
    assert "crash actor=triage/* nth=3" in str(plan)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("faults: [{kind: explode}]", "explode"),
        ("faults: [{kind: crash, nth: 0}]", "nth=0"),
        ("faults: [{kind: crash, probability: 2}]", "probability=2"),
        ("faults: [{kind: crash, nth: 1, probability: 0.5}]", "not both"),
        ("faults: [{kind: crash, who: me}]", "who"),
        ("faults: [crash]", "'crash'"),
        ("harm: []", "harm"),
        ("- crash", "mapping"),
        ("{", "YAML"),
    ],
)
def test_a_plan_that_cannot_be_used_says_why(text: str, said: str) -> None:
    with pytest.raises(FaultPlanError) as caught:
        FaultPlan.from_yaml(text)
    assert said in str(caught.value)


def chances(seed: int) -> list[str]:
    found: list[str] = []

    async def scenario(plan: FaultPlan) -> None:
        told: list[object] = []
        async with open_node() as node:
            await start(node, told)
            with inject(node, plan) as faults:
                for n in range(50):
                    log = await node.registry.wait_for("log")
                    await log.cast(Log.note, n)
                    await trio.sleep(0.1)
            found.extend(str(it) for it in faults.injected)

    listed = (Fault("slow", probability=0.2), Fault("drop", probability=0.2))
    assert replay(scenario, FaultPlan(listed, seed)) is None
    return found


def test_a_seed_replays_exactly_and_another_differs() -> None:
    assert chances(1) == chances(1)
    assert chances(1) != chances(2)
    assert 5 <= len(chances(1)) <= 35


def test_a_scenario_that_hangs_is_a_failure_and_one_that_is_broken_an_error() -> None:
    async def hangs(plan: FaultPlan) -> None:
        if plan.faults:
            await trio.sleep_forever()

    found = explore(hangs, faults=[Fault("crash")], seeds=range(3))
    assert found.failure is not None
    assert "seconds of its clock" in str(found.failure)

    async def broken(plan: FaultPlan) -> None:
        raise ZeroDivisionError("always")

    with pytest.raises(ScenarioError, match="without faults"):
        explore(broken, faults=[Fault("crash")])


def test_repeated_model_calls_and_orphans_are_found() -> None:
    one, other = Request.of("a"), Request.of("b")
    assert_no_repeated_effects([one, other])
    with pytest.raises(AssertionError, match="made 2 times: 'a'"):
        assert_no_repeated_effects([one, other, Request.of("a")])


def test_a_child_process_that_is_left_is_named() -> None:

    known = own_children()
    assert_no_orphans(allowed=known)
    child = subprocess.Popen(["sleep", "60"])
    try:
        with pytest.raises(AssertionError, match="sleep 60"):
            assert_no_orphans(allowed=known)
    finally:
        child.kill()
        child.wait()


def own_children() -> list[int]:

    listed = Path("/proc/self/task").glob("*/children")
    return [int(pid) for it in listed for pid in it.read_text().split()]


TRIAGE = Program(
    name="triage",
    steps={
        "classify": Step(module="Predict", signature="ticket -> category"),
        "answer": Step(module="Predict", signature="ticket, category -> reply"),
    },
)


def answers(request: Request) -> str:
    wanted = "reply" if "reply" in request.messages[0].text else "category"
    return f'{{"{wanted}": "billing"}}'


def test_a_program_is_explored_and_survives_deaths_of_its_actors() -> None:
    deaths = [
        Fault("crash", "triage/*"),
        Fault("kill", "triage/*"),
        Fault("slow", "triage/*"),
    ]
    found = explore(
        TRIAGE,
        faults=deaths,
        seeds=range(100),
        lm=lambda: ScriptedLM(answers),
        inputs={"ticket": "x"},
    )
    found.check()
    assert found.plans == 100


def test_a_model_call_that_is_paid_twice_is_a_failure_of_a_program() -> None:
    found = explore(
        TRIAGE,
        faults=[Fault("duplicate", "triage/*")],
        lm=lambda: ScriptedLM(answers),
        inputs={"ticket": "x"},
    )
    with pytest.raises(AssertionError, match=r"made 2 times: .*category"):
        found.check()


def test_what_breaks_a_program_is_found_and_shrunk() -> None:
    found = explore(
        TRIAGE,
        faults=[Fault("fail", on="model", status=401), Fault("slow", "triage/*")],
        lm=lambda: ScriptedLM(answers),
        inputs={"ticket": "x"},
    )
    assert found.failure is not None
    (fault,) = found.failure.plan.faults
    assert (fault.kind, fault.nth) == ("fail", 1)
    with pytest.raises(AssertionError, match="401"):
        found.check()


def test_a_chance_is_shrunk_to_the_message_that_it_hit() -> None:
    async def scenario(plan: FaultPlan) -> None:
        told: list[object] = []
        async with open_node() as node:
            await start(node, told)
            with inject(node, plan):
                for n in range(8):
                    log = await node.registry.wait_for("log")
                    await log.cast(Log.note, n)
                    await trio.sleep(0.1)
        assert 4 in told

    found = explore(scenario, faults=[Fault("drop", "log", probability=0.3)])
    assert found.failure is not None
    (fault,) = found.failure.plan.faults
    assert (fault.kind, fault.nth, fault.probability) == ("drop", 5, None)
    again = replay(scenario, FaultPlan.from_yaml(found.failure.plan.to_yaml()))
    assert isinstance(again, AssertionError)


def test_a_scenario_with_threads_is_explored_on_the_real_clock() -> None:
    async def scenario(plan: FaultPlan) -> None:
        with trio.fail_after(5.0):
            await trio.to_thread.run_sync(time.sleep, 0.05, abandon_on_cancel=True)

    with pytest.raises(ScenarioError, match="without faults"):
        explore(scenario, faults=[Fault("crash")], seeds=range(2))
    explore(scenario, faults=[Fault("crash")], seeds=range(2), clock="real").check()


async def test_explore_inside_of_trio_says_so() -> None:
    async def scenario(plan: FaultPlan) -> None:
        await trio.lowlevel.checkpoint()

    with pytest.raises(ScenarioError, match="outside of trio"):
        replay(scenario, FaultPlan())


async def test_a_fault_that_strikes_nothing_is_told_with_what_there_was() -> None:
    async with open_node() as node:
        wrong, met = Fault("crash", "trigae/*"), Fault("slow", "log", nth=3)
        done, model = Fault("drop", "log", nth=1), Fault("fail", on="model")
        plan = FaultPlan.of(wrong, met, done, model)
        lm = FaultyLM(ScriptedLM(), plan)
        with inject(node, plan) as faults:
            ref = await node.start(Log([]), name="log")
            await ref.send("one")
            await ref.send("two")
        assert [it.struck for it in faults.tallies] == [0, 0, 1]
        with pytest.raises(AssertionError) as caught:
            assert_every_fault_struck(faults, lm)
    assert str(caught.value).splitlines() == [
        "crash actor=trigae/*: never struck, for nothing matched it; "
        "there were: log.info",
        "slow actor=log nth=3: never struck, and 2 matched it",
        "fail on=model: never struck, for nothing matched it; "
        "there were: nothing that it could strike",
    ]


async def test_a_model_and_a_process_that_no_fault_means_are_named() -> None:
    plan = FaultPlan.of(
        Fault("fail", on="model", target="openai:gtp*"),
        Fault("kill", on="process", target="no such command"),
    )
    lm = FaultyLM(ScriptedLM(name="openai:gpt"), plan)
    await lm.complete("x")
    with pytest.raises(AssertionError, match="there were: openai:gpt"):
        assert_every_fault_struck(lm)
    child = subprocess.Popen(["sleep", "4322"])  # noqa: ASYNC220 - does not block
    with child:
        async with open_node() as node:
            with inject(node, plan) as faults:
                await trio.testing.wait_all_tasks_blocked()
            child.kill()
    with pytest.raises(AssertionError, match=r"there were: .*sleep 4322"):
        assert_every_fault_struck(faults)


def test_exploring_with_a_wrong_pattern_is_no_success() -> None:
    found = explore(
        TRIAGE,
        faults=[Fault("crash", "trigae/*"), Fault("slow", "triage/*")],
        seeds=range(10),
        inputs={"ticket": "x"},
    )
    assert found.failure is None
    with pytest.raises(
        AssertionError, match=r"crash actor=trigae/\*.*triage/"
    ) as caught:
        found.check()
    assert "slow" not in str(caught.value)


class Asking(Module):
    def __init__(self) -> None:
        self.ask = Predict("question -> answer: int")

    async def forward(self, question: str) -> dict[str, object]:
        return {"answer": (await self.ask(question=question)).answer}


def test_a_program_as_code_is_explored() -> None:
    step = Step(module="Asking", signature="question -> answer: int")
    found = explore(
        Program(name="asked", steps={"main": step}),
        modules={"Asking": Asking},
        inputs={"question": "?"},
        faults=[Fault("crash", "asked/*", nth=1)],
        seeds=range(5),
    )
    found.check()
    assert found.plans == 5
