"""Faults: whatever goes wrong, nothing is left running and no caller hangs."""

import contextlib
import os
import signal
import threading
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
import trio
import trio.testing

from dspex.runtime import (
    Actor,
    ActorRef,
    CalleeExitedError,
    CallError,
    DspexError,
    MailboxFullError,
    Node,
    NoProcessError,
    StartError,
    open_node,
)
from dspex.supervisors import ChildSpec, Supervisor, supervision_tree

Clock = trio.testing.MockClock


class Worker(Actor):
    """Fails in each way a worker can fail."""

    capacity = 3

    def __init__(self, *, trap_exit: bool = True, at_end: str = "ok") -> None:
        self.trap_exit = trap_exit
        self.at_end = at_end

    async def init(self) -> None:
        await trio.lowlevel.checkpoint()

    async def echo(self, value: int) -> int:
        await trio.lowlevel.checkpoint()
        return value

    async def crash(self) -> None:
        raise ZeroDivisionError("boom")

    async def hang(self) -> None:
        await trio.sleep_forever()

    async def crash_in_a_task(self) -> None:
        self.spawn(self.crash)
        await trio.sleep_forever()

    async def kill(self, ref: ActorRef[Supervisor]) -> None:
        ref.exit("kill")
        await trio.sleep_forever()

    async def cancel_itself(self) -> str:
        with trio.CancelScope() as scope:
            scope.cancel()
            await trio.sleep_forever()
        return "alive"

    async def terminate(self, reason: object) -> None:
        await trio.lowlevel.checkpoint()
        if self.at_end == "crash":
            raise ZeroDivisionError("at the end")
        if self.at_end == "hang":
            await trio.sleep_forever()


def nobody_is_left(node: Node) -> bool:
    return node.processes() == [] and node.registry.names() == []


# Each way to fail, seen by the caller, the neighbours and the supervisor.


@pytest.mark.parametrize("fault", [Worker.crash, Worker.crash_in_a_task])
async def test_a_fault_fails_its_caller_and_is_restarted(
    fault: Callable[[Worker], Awaitable[None]],
) -> None:
    async with open_node() as node:
        specs = [ChildSpec("w", Worker, name="w"), ChildSpec("n", Worker, name="n")]
        await node.start(Supervisor(specs))
        worker: ActorRef[Worker] = await node.registry.wait_for("w")
        neighbour = node.registry.whereis("n")
        with pytest.raises(CalleeExitedError, match="boom"):
            await worker.call(fault)
        again: ActorRef[Worker] = await node.registry.wait_for("w")
        assert await again.call(Worker.echo, 1) == 1
        assert node.registry.whereis("n") == neighbour


async def test_a_handler_that_cancels_its_own_scope_goes_on() -> None:
    async with open_node() as node:
        ref = await node.start(Worker())
        assert await ref.call(Worker.cancel_itself) == "alive"
        assert await ref.call(Worker.echo, 1) == 1


async def test_a_worker_that_kills_its_supervisor_dies_with_it(
    autojump_clock: Clock,
) -> None:
    async with open_node() as node:
        root = await node.start(
            Supervisor(
                [
                    ChildSpec("a", Worker, name="a"),
                    ChildSpec("b", lambda: Worker(trap_exit=False), name="b"),
                ]
            )
        )
        a: ActorRef[Worker] = await node.registry.wait_for("a")
        b = await node.registry.wait_for("b")
        await a.cast(Worker.kill, root)
        assert await b.wait_exit() == "killed"
        assert root.exit_reason == "killed"
        # `a` traps: it finishes its handler before it hears of the end.
        assert a.is_alive
        a.exit("kill")
        await a.wait_exit()
        assert nobody_is_left(node)


@pytest.mark.parametrize("at_end", ["ok", "crash", "hang"])
@pytest.mark.parametrize("busy", [False, True])
async def test_a_bad_end_does_not_stop_the_others_from_ending(
    at_end: str, busy: bool, autojump_clock: Clock
) -> None:
    async with open_node() as node:
        specs = [
            ChildSpec("a", Worker, name="a"),
            ChildSpec("b", lambda: Worker(at_end=at_end), name="b", shutdown=2.0),
            ChildSpec("c", Worker, name="c"),
        ]
        root = await node.start(Supervisor(specs))
        b: ActorRef[Worker] = await node.registry.wait_for("b")
        if busy:
            await b.cast(Worker.hang)
            await trio.testing.wait_all_tasks_blocked()
        await root.stop("shutdown", timeout=10)
        assert trio.current_time() == pytest.approx(2.0 * (busy or at_end == "hang"))
        assert nobody_is_left(node)


async def test_a_thousand_crashes_a_second_end_the_supervisor_not_the_node(
    autojump_clock: Clock,
) -> None:
    async with open_node() as node:
        root = await node.start(
            Supervisor([ChildSpec("w", Worker, name="w")], intensity=1_000, period=1.0)
        )
        crashes = 0
        while root.is_alive:
            with contextlib.suppress(DspexError):
                ref: ActorRef[Worker] = await node.registry.wait_for("w", timeout=0.1)
                await ref.cast(Worker.crash)
                crashes += 1
                await ref.wait_exit()
        assert crashes == 1_001
        assert root.exit_reason == "shutdown"
        assert nobody_is_left(node)


async def test_a_supervisor_killed_in_a_group_restart_leaves_nobody(
    autojump_clock: Clock,
) -> None:
    async with open_node() as node:
        specs = [
            ChildSpec("a", Worker, name="a"),
            ChildSpec("b", lambda: Worker(at_end="hang"), shutdown=5.0),
            ChildSpec("c", Worker),
        ]
        root = await node.start(Supervisor(specs, strategy="one_for_all"))
        a: ActorRef[Worker] = await node.registry.wait_for("a")
        await a.cast(Worker.crash)
        await trio.sleep(1)  # it waits for `b` now
        assert root.is_alive
        root.exit("kill")
        await root.wait_exit()
    assert nobody_is_left(node)


async def test_queued_calls_and_waiting_senders_all_hear_of_a_death(
    autojump_clock: Clock,
) -> None:
    heard: list[str] = []

    async def call(ref: ActorRef[Worker]) -> None:
        try:
            await ref.call(Worker.echo, 1)
        except CallError as error:
            heard.append(type(error).__name__)

    async def cast(ref: ActorRef[Worker]) -> None:
        await ref.cast(Worker.echo, 1)
        heard.append("cast")

    async with open_node() as node:
        ref = await node.start(Worker())
        await ref.cast(Worker.hang)
        async with trio.open_nursery() as nursery:
            for _ in range(10):
                nursery.start_soon(call, ref)
                nursery.start_soon(cast, ref)
            await trio.sleep(1)
            with pytest.raises(MailboxFullError):
                ref.cast_nowait(Worker.echo, 1)
            assert ref.mailbox.depth == ref.mailbox.high_water == 3
            ref.exit("kill")
    assert sorted(heard) == ["CalleeExitedError"] * 10 + ["cast"] * 10


# Cancellation at every checkpoint.


class _CancelAt(trio.abc.Instrument):
    """Cancels a scope the n-th time a task (or any, if None) is about to run."""

    def __init__(self, scope: trio.CancelScope, task: object, n: int) -> None:
        self.scope = scope
        self.task = task
        self.left = n

    def before_task_step(self, task: object) -> None:
        if self.task is None or task is self.task:
            self.left -= 1
            if self.left == 0:
                self.scope.cancel()


@asynccontextmanager
async def cancelled_at(n: int, *, of_any: bool) -> AsyncGenerator[trio.CancelScope]:
    with trio.CancelScope() as scope:
        task = None if of_any else trio.lowlevel.current_task()
        instrument = _CancelAt(scope, task, n)
        trio.lowlevel.add_instrument(instrument)
        try:
            yield scope
        finally:
            trio.lowlevel.remove_instrument(instrument)


async def a_whole_life(node: Node) -> None:
    specs = [
        ChildSpec("a", Worker, name="a"),
        ChildSpec("sub", lambda: Supervisor([ChildSpec("b", Worker, name="b")])),
        ChildSpec("c", lambda: Worker(trap_exit=False), name="c"),
    ]
    root = await node.start(Supervisor(specs, strategy="rest_for_one"), name="root")
    a: ActorRef[Worker] = await node.registry.wait_for("a")
    assert await a.call(Worker.echo, 1) == 1
    for n in range(8):  # beyond its capacity
        await a.cast(Worker.echo, n)
    with pytest.raises(CalleeExitedError):
        await a.call(Worker.crash)
    b: ActorRef[Worker] = await node.registry.wait_for("b")
    await b.send("hello")
    await root.call(Supervisor.terminate_child, "a")
    await root.call(Supervisor.restart_child, "a")
    await root.stop("shutdown")


@pytest.mark.parametrize(("of_any", "at_least"), [(False, 6), (True, 30)])
async def test_cancelling_the_host_at_each_checkpoint_leaves_nobody(
    of_any: bool, at_least: int
) -> None:
    n = 0
    finished = False
    while not finished:
        n += 1
        nodes: list[Node] = []
        async with cancelled_at(n, of_any=of_any):
            async with open_node(shutdown_timeout=5) as node:
                nodes.append(node)
                await a_whole_life(node)
            finished = True
        assert all(nobody_is_left(node) for node in nodes), f"checkpoint {n}"
    assert n > at_least


@pytest.mark.parametrize(("of_any", "at_least"), [(False, 5), (True, 25)])
async def test_cancelling_a_user_at_each_checkpoint_leaves_the_tree_sound(
    of_any: bool, at_least: int
) -> None:
    n = 0
    finished = False
    while not finished:
        n += 1
        async with open_node(shutdown_timeout=5) as node:
            async with cancelled_at(n, of_any=of_any):
                await a_whole_life(node)
                finished = True
            await trio.testing.wait_all_tasks_blocked()
            for process in node.processes():
                assert process.state == "running", f"cancelled at checkpoint {n}"
                assert process.mailbox.is_idle
            assert str(supervision_tree(node))
        assert nobody_is_left(node)
    assert n > at_least


async def test_cancelling_a_start_kills_what_was_starting(
    autojump_clock: Clock,
) -> None:
    class Slow(Worker):
        async def init(self) -> None:
            await trio.sleep(10)

    async with open_node() as node:
        with trio.move_on_after(1) as scope:
            await node.start(Supervisor([ChildSpec("s", Slow, name="s")]), name="root")
        assert scope.cancelled_caught
        await trio.testing.wait_all_tasks_blocked()
        assert nobody_is_left(node)


# The end of the whole node.


async def test_nothing_can_be_started_while_the_node_ends() -> None:
    refused: list[str] = []
    nodes: list[Node] = []

    class Late(Worker):
        async def terminate(self, reason: object) -> None:
            with pytest.raises(StartError, match="ending") as caught:
                await nodes[0].start(Worker())
            refused.append(str(caught.value))

    async with open_node() as node:
        nodes.append(node)
        ref = await node.start(Late())
    assert len(refused) == 1
    with pytest.raises(NoProcessError):
        await ref.call(Worker.echo, 1)


def test_a_keyboard_interrupt_ends_every_actor_in_order() -> None:
    ended: list[str] = []

    class Noting(Worker):
        def __init__(self, id: str) -> None:
            self.id = id
            self.trap_exit = True

        async def terminate(self, reason: object) -> None:
            await trio.lowlevel.checkpoint()
            ended.append(self.id)

    async def main() -> None:
        async with open_node() as node:
            specs = [ChildSpec(id, Noting, (id,)) for id in "abc"]
            await node.start(Supervisor(specs))
            threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGINT)).start()
            await trio.sleep_forever()

    with pytest.raises(KeyboardInterrupt):
        trio.run(main)
    assert ended == ["c", "b", "a"]


async def test_a_handler_that_exits_the_program_ends_the_node_in_order() -> None:
    ended: list[str] = []

    class Exiting(Worker):
        async def leave(self) -> None:
            raise SystemExit(3)

        async def terminate(self, reason: object) -> None:
            ended.append(str(reason))

    async def live() -> None:
        async with open_node() as node:
            await node.start(Exiting())
            ref = await node.start(Exiting())
            await ref.cast(Exiting.leave)
            await trio.sleep_forever()

    with pytest.raises(SystemExit):
        await live()
    assert ended == ["shutdown"]
