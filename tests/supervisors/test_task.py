"""Tasks: awaited, linked, alone, streamed."""

from contextlib import aclosing

import pytest
import trio
import trio.testing

from dspex.runtime import Actor, ActorRef, CalleeExitedError, open_node
from dspex.supervisors import (
    MaxChildrenError,
    StreamedExit,
    Supervisor,
    Task,
    TaskExitedError,
    TaskSupervisor,
    TaskTimeoutError,
    async_,
    async_nolink,
    async_stream,
    await_,
)

Clock = trio.testing.MockClock


async def double(n: int) -> int:
    await trio.sleep(n)
    return 2 * n


async def fail(n: int) -> int:
    if n == 2:
        raise ZeroDivisionError("two")
    return await double(n)


class Owner(Actor):
    async def run(self, tasks: ActorRef[TaskSupervisor], n: int) -> int:
        task = await async_(tasks, fail, n, owner=self)
        return await await_(task)

    async def leave_one(self, tasks: ActorRef[TaskSupervisor]) -> Task[int]:
        return await async_(tasks, double, 1000, owner=self)


async def test_await_gives_the_value(autojump_clock: Clock) -> None:
    async with open_node() as node:
        tasks = await node.start(TaskSupervisor())
        task = await async_nolink(tasks, double, 3)
        assert not task.is_done
        assert await await_(task) == 6
        assert trio.current_time() == pytest.approx(3)
        assert task.is_done
        assert await tasks.call(Supervisor.which_children) == []


async def test_await_gives_up_and_the_task_goes_on(autojump_clock: Clock) -> None:
    async with open_node() as node:
        tasks = await node.start(TaskSupervisor())
        task = await async_nolink(tasks, double, 3)
        with pytest.raises(TaskTimeoutError):
            await await_(task, timeout=1)
        assert await await_(task) == 6


async def test_a_task_without_link_fails_alone(autojump_clock: Clock) -> None:
    async with open_node() as node:
        tasks = await node.start(TaskSupervisor())
        task = await async_nolink(tasks, fail, 2)
        with pytest.raises(TaskExitedError, match="two"):
            await await_(task)
        task = await async_nolink(tasks, double, 5)
        task.cancel()
        with pytest.raises(TaskExitedError, match="killed"):
            await await_(task)
        assert tasks.is_alive


async def test_a_linked_task_and_its_owner_die_together(autojump_clock: Clock) -> None:
    async with open_node() as node:
        tasks = await node.start(TaskSupervisor())
        owner = await node.start(Owner())
        assert await owner.call(Owner.run, tasks, 1) == 2
        with pytest.raises(CalleeExitedError, match="two"):
            await owner.call(Owner.run, tasks, 2)
        owner = await node.start(Owner())
        task = await owner.call(Owner.leave_one, tasks)
        owner.exit("boom")
        assert await task.ref.wait_exit() == "boom"


async def test_one_task_too_many_is_refused(autojump_clock: Clock) -> None:
    async with open_node() as node:
        tasks = await node.start(TaskSupervisor(max_children=1))
        await async_nolink(tasks, double, 3)
        with pytest.raises(MaxChildrenError):
            await async_nolink(tasks, double, 3)


async def test_stream_keeps_order_and_limit(autojump_clock: Clock) -> None:
    async with open_node() as node:
        tasks = await node.start(TaskSupervisor())
        most = 0

        async def work(n: int) -> int:
            nonlocal most
            count = await tasks.call(Supervisor.count_children)
            most = max(most, count.active)
            return await fail(n)

        results = [
            it
            async for it in async_stream(tasks, work, [3, 1, 2, 1], max_concurrency=2)
        ]
        assert [results[0], results[1], results[3]] == [6, 2, 2]
        assert isinstance(results[2], StreamedExit)
        assert most == 2


async def test_a_late_item_of_a_stream_is_killed(autojump_clock: Clock) -> None:
    async with open_node() as node:
        tasks = await node.start(TaskSupervisor())
        stream = async_stream(tasks, double, [1, 100], timeout=5)
        assert [it async for it in stream] == [2, StreamedExit("timeout")]
        assert await tasks.call(Supervisor.which_children) == []


async def test_leaving_a_stream_kills_what_still_runs(autojump_clock: Clock) -> None:
    async with open_node() as node:
        tasks = await node.start(TaskSupervisor())
        stream = async_stream(tasks, double, [1, 100, 100])
        async with aclosing(stream):
            async for _ in stream:
                break
        await trio.testing.wait_all_tasks_blocked()
        assert await tasks.call(Supervisor.which_children) == []
