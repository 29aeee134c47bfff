"""The kernel's first promises: calls, crashes, links, names, orderly ends."""

import subprocess
import sys
from typing import Any, cast

import pytest
import trio
import trio.testing

from dspex.runtime import (
    Actor,
    ActorRef,
    AlreadyStartedError,
    CalleeExitedError,
    CallingSelfError,
    CallTimeoutError,
    Deferred,
    Down,
    Exit,
    NoProcessError,
    Refuse,
    StartError,
    open_node,
)


class Counter(Actor):
    capacity = 4

    def __init__(self, value: int = 0) -> None:
        self.value = value
        self.ended: list[object] = []

    async def add(self, n: int) -> int:
        self.value += n
        return self.value

    async def crash(self) -> None:
        raise ZeroDivisionError("boom")

    async def refuse(self) -> None:
        raise Refuse(KeyError("no"))

    async def sleep(self, seconds: float) -> str:
        await trio.sleep(seconds)
        return "slept"

    async def later(self, seconds: float) -> Deferred[str]:
        answer: Deferred[str] = self.deferred()

        async def work() -> None:
            await trio.sleep(seconds)
            answer.reply("later")

        self.spawn(work)
        return answer

    async def call_self(self) -> int:
        ref: ActorRef[Counter] = self.ref
        return await ref.call(Counter.add, 1)

    async def stop_with_reply(self) -> str:
        self.stop()
        return "bye"


class Watcher(Actor):
    trap_exit = True

    def __init__(self) -> None:
        self.seen: list[object] = []

    async def watch(self, ref: ActorRef[Counter]) -> int:
        return self.monitor(ref)

    async def tie(self, ref: ActorRef[Counter]) -> None:
        self.link(ref)

    async def handle_info(self, message: object) -> None:
        self.seen.append(message)

    async def get(self) -> list[object]:
        return self.seen


async def test_call_gives_the_handlers_return_value() -> None:
    async with open_node() as node:
        ref = await node.start(Counter(5), name="counter")
        assert await ref.call(Counter.add, 2) == 7
        await ref.cast(Counter.add, 1)
        assert await ref.call(Counter.add, 0) == 8
        assert node.registry.whereis("counter") == ref


async def test_crash_fails_every_waiting_and_queued_call(
    autojump_clock: trio.testing.MockClock,
) -> None:
    failures: list[object] = []

    async def add(ref: ActorRef[Counter]) -> None:
        with pytest.raises(CalleeExitedError) as caught:
            await ref.call(Counter.add, 1)
        failures.append(caught.value.reason)

    async with open_node() as node:
        ref = await node.start(Counter())
        async with trio.open_nursery() as nursery:
            await ref.cast(Counter.sleep, 1)
            await ref.cast(Counter.crash)
            for _ in range(20):  # far beyond its capacity of 4
                nursery.start_soon(add, ref)
        assert len(failures) == 20
        assert all(isinstance(reason, ZeroDivisionError) for reason in failures)
        with pytest.raises(NoProcessError):
            await ref.call(Counter.add, 1)


async def test_refuse_fails_only_its_caller() -> None:
    async with open_node() as node:
        ref = await node.start(Counter())
        with pytest.raises(KeyError):
            await ref.call(Counter.refuse)
        assert await ref.call(Counter.add, 1) == 1


@pytest.mark.parametrize("timeout", [0.5, 5, 3600])
async def test_call_gives_up_at_its_timeout_and_the_callee_lives(
    timeout: float, autojump_clock: trio.testing.MockClock
) -> None:
    async with open_node() as node:
        ref = await node.start(Counter())
        with pytest.raises(CallTimeoutError):
            await ref.call(Counter.sleep, timeout * 2, timeout=timeout)
        assert trio.current_time() == pytest.approx(timeout)
        assert await ref.call(Counter.add, 1, timeout=timeout * 2) == 1


async def test_a_cancelled_callers_queued_request_is_not_started(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with open_node() as node:
        ref = await node.start(Counter())
        await ref.cast(Counter.sleep, 1)
        with trio.move_on_after(0.5):
            await ref.call(Counter.add, 10)
        assert await ref.call(Counter.add, 1) == 1


async def test_deferred_reply_leaves_the_actor_free(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with open_node() as node:
        ref = await node.start(Counter())
        answers: list[object] = []

        async def ask() -> None:
            answers.append(await ref.call(Counter.later, 1.0))

        async with trio.open_nursery() as nursery:
            for _ in range(10):
                nursery.start_soon(ask)
        assert answers == ["later"] * 10
        assert trio.current_time() == pytest.approx(1)


async def test_an_actor_cannot_call_itself() -> None:
    async with open_node() as node:
        ref = await node.start(Counter())
        with pytest.raises(CalleeExitedError) as caught:
            await ref.call(Counter.call_self)
        assert isinstance(caught.value.reason, CallingSelfError)


async def test_stop_with_reply_answers_and_ends() -> None:
    async with open_node() as node:
        ref = await node.start(Counter())
        assert await ref.call(Counter.stop_with_reply) == "bye"
        await trio.testing.wait_all_tasks_blocked()
        assert ref.exit_reason == "normal"


async def test_monitor_and_link_tell_the_reason_exactly_once() -> None:
    async with open_node() as node:
        counter = await node.start(Counter())
        watcher = await node.start(Watcher())
        monitor = await watcher.call(Watcher.watch, counter)
        await watcher.call(Watcher.tie, counter)
        await watcher.call(Watcher.tie, counter)
        counter.exit("boom")
        await trio.testing.wait_all_tasks_blocked()
        seen = await watcher.call(Watcher.get)
        assert len(seen) == 2
        assert Down(monitor, counter, "boom") in seen
        assert Exit(counter, "boom") in seen


async def test_monitoring_a_dead_actor_tells_noproc_at_once() -> None:
    async with open_node() as node:
        counter = await node.start(Counter())
        counter.exit("kill")
        await trio.testing.wait_all_tasks_blocked()
        watcher = await node.start(Watcher())
        monitor = await watcher.call(Watcher.watch, counter)
        assert await watcher.call(Watcher.get) == [Down(monitor, counter, "noproc")]


class BadInit(Actor):
    async def init(self) -> None:
        raise RuntimeError("no database")


async def test_failed_init_gives_the_starter_its_reason_and_frees_the_name() -> None:
    async with open_node() as node:
        with pytest.raises(StartError, match="no database") as caught:
            await node.start(BadInit(), name="nm")
        assert isinstance(caught.value.reason, RuntimeError)
        assert node.registry.whereis("nm") is None


async def test_a_name_belongs_to_one_live_actor() -> None:
    async with open_node() as node:
        first = await node.start(Counter(), name="nm")
        with pytest.raises(AlreadyStartedError) as caught:
            await node.start(BadInit(), name="nm")
        assert caught.value.existing == first
        first.exit("kill")
        await trio.testing.wait_all_tasks_blocked()
        await node.start(Counter(), name="nm")


async def test_leaving_the_node_ends_every_actor(
    autojump_clock: trio.testing.MockClock,
) -> None:
    class Stubborn(Actor):
        trap_exit = True

        async def terminate(self, reason: object) -> None:
            await trio.sleep_forever()

    refs: list[ActorRef[Stubborn]] = []
    with trio.move_on_after(1) as scope:
        async with open_node(shutdown_timeout=3) as node:
            refs.append(await node.start(Stubborn()))
            await trio.sleep_forever()
    assert scope.cancelled_caught
    assert refs[0].exit_reason == "killed"
    assert trio.current_time() == pytest.approx(4)


async def test_errors_of_the_block_come_out_bare() -> None:
    with pytest.raises(LookupError):
        async with open_node():
            raise LookupError("mine")


async def test_a_callers_mistake_is_the_callers_and_the_actor_goes_on() -> None:
    async with open_node() as node:
        counter = await node.start(Counter(5))
        ref: Any = counter  # what the type checkers would not let pass
        with pytest.raises(TypeError, match="takes 2 positional arguments but 3"):
            await ref.call(Counter.add, 1, 2)
        with pytest.raises(TypeError, match="missing 1 required"):
            await ref.call(Counter.add)
        with pytest.raises(TypeError, match="take a method of the actor"):
            await ref.call("add")
        await ref.cast(Counter.add)
        assert await ref.call(Counter.add, 1) == 6
        with pytest.raises(CalleeExitedError):  # a TypeError of its own is a crash
            await ref.call(Counter.add, "one")


def test_logs_of_an_unconfigured_host_go_to_stderr_and_hide_secrets() -> None:
    script = """
import trio
from dspex import Actor, open_node

class Vault(Actor):
    async def open(self, api_key):
        local_secret = api_key * 2
        raise ValueError("no")

async def main():
    async with open_node() as node:
        vault = await node.start(Vault())
        try:
            await vault.call(Vault.open, "hunter2")
        except Exception as error:
            print(type(error).__name__)

trio.run(main)
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout == "CalleeExitedError\n"
    assert "actor_crashed" in done.stderr
    assert "open(api_key=[redacted])" in done.stderr
    assert "hunter2" not in done.stderr


async def test_a_call_of_something_else_than_a_method_says_what_it_takes() -> None:
    async with open_node() as node:
        ref = await node.start(Counter(0))
        with pytest.raises(TypeError, match=r"such as Counter\.method, not 'add'"):
            await ref.call(cast(Any, "add"), 1)
        assert await ref.call(Counter.add, 2) == 2
