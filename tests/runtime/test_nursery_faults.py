"""Handlers that run a nursery: what it raises may be a group, cancellations inside."""

from collections.abc import Awaitable, Callable

import pytest
import trio
import trio.testing

from dspex.runtime import Actor, CalleeExitedError, StartError, open_node
from dspex.supervisors import ChildSpec, Supervisor


def run(main: Callable[[], Awaitable[None]]) -> None:
    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


async def fail_at_the_end(error: BaseException) -> None:
    try:
        await trio.sleep_forever()
    finally:
        raise error


async def leave(status: int) -> None:
    await trio.lowlevel.checkpoint()
    raise SystemExit(status)


class Nursing(Actor):
    """Waits in a nursery, one of whose tasks fails when it is cancelled."""

    async def work(self) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(fail_at_the_end, OSError("a bad clean-up"))
            await trio.sleep_forever()

    async def exit_program(self) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(leave, 3)

    async def value(self) -> int:
        return 1


class NursingInit(Nursing):
    async def init(self) -> None:
        await self.work()


def test_a_kill_during_a_nursery_ends_only_this_actor() -> None:
    async def main() -> None:
        async with open_node() as node:
            beside = await node.start(Nursing())
            ref = await node.start(Nursing())
            async with trio.open_nursery() as nursery:

                async def call() -> None:
                    with pytest.raises(CalleeExitedError, match="killed"):
                        await ref.call(Nursing.work)

                nursery.start_soon(call)
                await trio.testing.wait_all_tasks_blocked()
                ref.exit("kill")
            assert ref.exit_reason == "killed"
            assert await beside.call(Nursing.value) == 1

    run(main)


def test_a_supervisor_stops_a_child_that_is_in_a_nursery() -> None:
    async def main() -> None:
        async with open_node() as node:
            root = await node.start(
                Supervisor([ChildSpec("c", Nursing, name="c"), ChildSpec("d", Nursing)])
            )
            ref = await node.registry.wait_for("c")
            await ref.cast(Nursing.work)
            await trio.testing.wait_all_tasks_blocked()
            await root.call(Supervisor.terminate_child, "c")
            assert ref.exit_reason == "shutdown"
            assert root.is_alive
            count = await root.call(Supervisor.count_children)
            assert count.active == 1

    run(main)


def test_an_init_that_is_late_in_a_nursery_fails_only_its_start() -> None:
    async def main() -> None:
        async with open_node() as node:
            beside = await node.start(Nursing())
            with pytest.raises(StartError):
                await node.start(NursingInit(), timeout=1)
            assert await beside.call(Nursing.value) == 1

    run(main)


def test_a_nursery_that_exits_the_program_ends_the_node_in_order() -> None:
    ended: list[str] = []

    class Beside(Actor):
        trap_exit = True

        async def terminate(self, reason: object) -> None:
            await trio.lowlevel.checkpoint()
            ended.append(str(reason))

    async def live() -> None:
        async with open_node() as node:
            await node.start(Beside())
            ref = await node.start(Nursing())
            await ref.cast(Nursing.exit_program)
            await trio.sleep_forever()

    with pytest.raises(SystemExit) as left:
        run(live)
    assert left.value.code == 3
    assert ended == ["shutdown"]
