"""Acceptance scenarios A1 to A8, from outside: modules and actors in a real tree."""

import os
import signal
import subprocess
import sys
from collections.abc import AsyncGenerator

import pytest
import trio
import trio.testing

from dspex.modules import ModuleRegistry, Predict
from dspex.runtime import (
    Actor,
    CalleeExitedError,
    CallTimeoutError,
    Down,
    Exit,
    MailboxFullError,
    Node,
    open_node,
)
from dspex.supervisors import ChildSpec, DynamicSupervisor, Supervisor
from dspex.testing import ScriptedLM

Clock = trio.testing.MockClock


class Worker(Actor):
    trap_exit = True
    capacity = 2

    def __init__(self, id: str = "w", log: list[str] | None = None) -> None:
        self.id = id
        self.log: list[str] = [] if log is None else log

    async def init(self) -> None:
        self.log.append(f"start {self.id}")

    async def echo(self, value: str) -> str:
        return value

    async def slowly(self, value: str, seconds: float) -> str:
        await trio.sleep(seconds)
        return value

    async def boom(self) -> None:
        raise ZeroDivisionError("boom")

    async def leave(self) -> None:
        self.stop()

    async def terminate(self, reason: object) -> None:
        self.log.append(f"stop {self.id}")


class Listener(Actor):
    trap_exit = True

    def __init__(self, heard: list[object]) -> None:
        self.heard = heard

    async def watch(self, other: str) -> None:
        ref = self.node.registry.whereis(other)
        assert ref is not None
        self.monitor(ref)
        self.link(ref)

    async def handle_info(self, message: object) -> None:
        if isinstance(message, Down):
            # The name is free before anybody hears of the death.
            self.heard.append(self.node.registry.whereis("w"))
        self.heard.append(message)


@pytest.fixture
async def node() -> AsyncGenerator[Node]:
    async with open_node(shutdown_timeout=1.0) as node:
        yield node


def specs(log: list[str], *ids: str) -> list[ChildSpec]:
    return [ChildSpec(id, Worker, (id, log), name=id) for id in ids]


async def settled() -> None:
    await trio.testing.wait_all_tasks_blocked()


async def test_a1_a_supervised_module_answers_and_can_be_looked_at(node: Node) -> None:
    supervisor = await node.start(DynamicSupervisor(), name="modules")
    lm = ScriptedLM(lambda _: '{"answer": "4"}')
    modules = ModuleRegistry(node.registry, supervisor, lm=lm)
    await modules.start(Predict("question -> answer"), "qa")
    qa = modules.find("qa")
    assert (await qa.forward(question="2 + 2?")).answer == "4"
    await qa.set_parameter("instructions", "Be brief.")
    state = await qa.get_state()
    parameter = state.parameters["instructions"]
    assert parameter.value == "Be brief."
    assert len(parameter.history) == 1
    (execution,) = state.executions
    assert execution.inputs == {"question": "2 + 2?"}
    assert (state.metrics.succeeded, state.metrics.failed) == (1, 0)
    assert modules.list_modules() == modules.list_modules("Predict") == ("qa",)
    assert modules.list_modules("ReAct") == ()


async def test_a2_a_crash_fails_its_caller_and_the_name_finds_a_new_one(
    node: Node,
) -> None:
    log: list[str] = []
    root = await node.start(Supervisor(specs(log, "a", "b", "c")))
    before = {id: node.registry.whereis(id) for id in "abc"}
    assert before["b"] is not None
    with trio.fail_after(2), pytest.raises(CalleeExitedError) as caught:
        await before["b"].call(Worker.boom)
    assert isinstance(caught.value.reason, ZeroDivisionError)
    again = await node.registry.wait_for("b")
    assert again != before["b"]
    assert await again.call(Worker.echo, "x") == "x"
    infos = await root.call(Supervisor.which_children)
    assert {it.id: it.restarts for it in infos} == {"a": 0, "b": 1, "c": 0}
    assert [node.registry.whereis(id) for id in "ac"] == [before["a"], before["c"]]


@pytest.mark.parametrize(
    ("strategy", "restarted"),
    [("one_for_one", "b"), ("one_for_all", "abc"), ("rest_for_one", "bc")],
)
async def test_a3_the_strategy_says_who_is_restarted_and_stops_are_reversed(
    strategy: str, restarted: str, node: Node
) -> None:
    log: list[str] = []
    tree = Supervisor(specs(log, *"abc"), strategy=strategy)  # type: ignore[arg-type]
    await node.start(tree)
    log.clear()
    ref = await node.registry.wait_for("b")
    await ref.cast(Worker.boom)
    await settled()
    others = [f"stop {id}" for id in reversed(restarted) if id != "b"]
    starts = [f"start {id}" for id in restarted]
    assert log == ["stop b", *others, *starts]


@pytest.mark.parametrize(
    ("restart", "normal", "abnormal"),
    [
        ("permanent", True, True),
        ("transient", False, True),
        ("temporary", False, False),
    ],
)
async def test_a4_each_restart_type_at_a_normal_and_an_abnormal_end(
    restart: str, normal: bool, abnormal: bool, node: Node
) -> None:
    for end, comes_back in ((Worker.leave, normal), (Worker.boom, abnormal)):
        spec = ChildSpec("w", Worker, name="w", restart=restart)  # type: ignore[arg-type]
        root = await node.start(Supervisor([spec]))
        ref = await node.registry.wait_for("w")
        await ref.cast(end)
        await settled()
        assert (node.registry.whereis("w") is not None) is comes_back
        await root.stop("shutdown")


async def test_a5_one_crash_too_many_escalates_and_slower_ones_do_not(
    autojump_clock: Clock,
) -> None:
    async with open_node() as node:
        log: list[str] = []

        def inner() -> Supervisor:
            return Supervisor(specs(log, "w"), intensity=2, period=5.0)

        spec = ChildSpec("inner", inner, name="inner", type="supervisor")
        await node.start(Supervisor([spec], intensity=1, period=60.0), name="outer")
        first = node.registry.whereis("inner")

        async def crash() -> None:
            await (await node.registry.wait_for("w")).cast(Worker.boom)
            await settled()

        for _ in range(6):  # three seconds apart: never three in five seconds
            await crash()
            await trio.sleep(3.0)
        assert node.registry.whereis("inner") == first
        await trio.sleep(10.0)
        for _ in range(3):
            await crash()
        # The supervisor gave up, and its own has started another.
        assert node.registry.whereis("inner") not in (None, first)
        assert node.registry.whereis("outer") is not None


async def test_a6_callers_in_flight_and_in_the_queue_hear_of_a_crash(
    node: Node,
) -> None:
    spec = ChildSpec("w", Worker, name="w")
    await node.start(Supervisor([spec]))
    ref = await node.registry.wait_for("w")
    failed: list[object] = []

    async def call(seconds: float) -> None:
        with pytest.raises(CalleeExitedError) as caught:
            await ref.call(Worker.slowly, "x", seconds, timeout=60)
        failed.append(caught.value.reason)

    with trio.fail_after(2):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(call, 60.0)
            await settled()
            nursery.start_soon(call, 0.0)
            await settled()
            ref.exit("kill")
    assert failed == ["killed", "killed"]


async def test_a6_a_full_mailbox_makes_callers_wait_or_refuses(
    autojump_clock: Clock,
) -> None:
    async with open_node() as node:
        ref = await node.start(Worker())
        await ref.cast(Worker.slowly, "x", 5.0)
        await settled()
        for _ in range(Worker.capacity):
            ref.cast_nowait(Worker.echo, "waits")
        with pytest.raises(MailboxFullError):
            ref.cast_nowait(Worker.echo, "too many")
        await ref.cast(Worker.echo, "waits for room")
        assert trio.current_time() == pytest.approx(5.0)


async def test_a6_a_late_reply_is_dropped_and_not_given_to_the_next_call(
    autojump_clock: Clock,
) -> None:
    async with open_node() as node:
        ref = await node.start(Worker())
        with pytest.raises(CallTimeoutError):
            await ref.call(Worker.slowly, "late", 3.0, timeout=1.0)
        assert await ref.call(Worker.echo, "mine", timeout=10.0) == "mine"


async def test_a7_a_death_is_heard_once_by_monitor_and_by_link(node: Node) -> None:
    heard: list[object] = []
    listener = await node.start(Listener(heard), name="listener")
    ref = await node.start(Worker(), name="w")
    await listener.call(Listener.watch, "w")
    ref.exit("kill")
    await ref.wait_exit()
    await settled()
    downs = [it for it in heard if isinstance(it, Down)]
    exits = [it for it in heard if isinstance(it, Exit)]
    assert [it.reason for it in downs] == ["killed"]
    assert [it.reason for it in exits] == ["killed"]
    assert heard[heard.index(downs[0]) - 1] is None
    assert listener.is_alive


async def test_a8_terminate_runs_and_a_slow_child_is_cancelled(
    autojump_clock: Clock,
) -> None:
    log: list[str] = []

    class Slow(Worker):
        async def terminate(self, reason: object) -> None:
            await trio.sleep(600)
            self.log.append("never")

    async with open_node() as node:
        slow = ChildSpec("slow", Slow, ("slow", log), name="slow", shutdown=2.0)
        root = await node.start(Supervisor([*specs(log, "a", "b"), slow]))
        log.clear()
        began = trio.current_time()
        await root.stop("shutdown", timeout=60.0)
        assert trio.current_time() - began == pytest.approx(2.0)
        assert log == ["stop b", "stop a"]
        assert list(node.processes()) == []


CTRL_C = """
import trio
from dspex import Actor, ChildSpec, Supervisor, open_node
from dspex.runtime.child_process import ChildProcess

class Owner(Actor):
    trap_exit = True
    async def init(self):
        child = ChildProcess.start(["sleep", "600"], name="sleep")
        self.spawn(child.run)
        print(child.pid, flush=True)
    async def terminate(self, reason):
        print("terminated", flush=True)

async def main():
    async with open_node() as node:
        await node.start(Supervisor([ChildSpec("o", Owner)]))
        await trio.sleep_forever()

trio.run(main)
"""


def test_a8_ctrl_c_runs_terminate_too_and_leaves_no_process() -> None:
    def heed() -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)

    with subprocess.Popen(
        [sys.executable, "-c", CTRL_C],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=heed,
    ) as process:
        assert process.stdout is not None
        child = int(process.stdout.readline())
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=20)
    assert out == "terminated\n", err
    assert "KeyboardInterrupt" in err
    with pytest.raises(ProcessLookupError):
        os.kill(child, 0)
