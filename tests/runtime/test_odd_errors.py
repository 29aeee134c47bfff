"""What Erlang cannot throw: exits of Python's own, NaN, and values without equality.

In OTP whatever is thrown ends one process. Nothing here may end the node, but for the
two errors that ask for just that, and they do so in order.
"""

import asyncio
import math
from collections.abc import Awaitable, Callable

import pytest
import trio

from dspex.runtime import Actor, CalleeExitedError, StartError, open_node


class OddError(BaseException):
    """An error that is no Exception."""


class Odd:
    """A value that cannot be compared, as an array cannot."""

    def __eq__(self, other: object) -> bool:
        raise ValueError("the truth value is ambiguous")

    __hash__ = None  # type: ignore[assignment]


class Server(Actor):
    trap_exit = True

    def __init__(self, ended: list[object] | None = None) -> None:
        self.ended = [] if ended is None else ended

    async def run(self, work: Callable[["Server"], Awaitable[object]]) -> object:
        return await work(self)

    async def ping(self) -> str:
        return "pong"

    async def terminate(self, reason: object) -> None:
        await trio.lowlevel.checkpoint()
        self.ended.append(reason)


ODD = [OddError("x"), asyncio.CancelledError(), GeneratorExit()]


@pytest.mark.parametrize("error", ODD, ids=repr)
async def test_an_error_that_is_no_exception_ends_one_actor(
    error: BaseException,
) -> None:
    async def work(it: Server) -> None:
        raise error

    async with open_node() as node:
        bystander = await node.start(Server())
        ref = await node.start(Server())
        with pytest.raises(CalleeExitedError) as left:
            await ref.call(Server.run, work)
        assert left.value.reason is error
        assert await bystander.call(Server.ping) == "pong"


@pytest.mark.parametrize("error", ODD, ids=repr)
async def test_it_fails_a_start_and_is_the_reason_of_a_terminate(
    error: BaseException,
) -> None:
    class Failing(Server):
        async def init(self) -> None:
            if not self.ended:
                raise error

        async def terminate(self, reason: object) -> None:
            raise error

    async with open_node() as node:
        bystander = await node.start(Server())
        with pytest.raises(StartError) as failed:
            await node.start(Failing())
        assert failed.value.reason is error
        ref = await node.start(Failing(["started"]))
        with pytest.raises(CalleeExitedError) as left:
            await ref.stop()
        assert left.value.reason is error
        assert await bystander.call(Server.ping) == "pong"


@pytest.mark.parametrize("error", ODD[:2], ids=repr)
async def test_out_of_a_spawned_task_it_ends_the_actor(error: BaseException) -> None:
    async def fail() -> None:
        raise error

    async def work(it: Server) -> None:
        it.spawn(fail)

    async with open_node() as node:
        bystander = await node.start(Server())
        ref = await node.start(Server())
        await ref.cast(Server.run, work)
        assert await ref.wait_exit() is error
        assert ref.port.actor.ended == [error]  # type: ignore[attr-defined]
        assert await bystander.call(Server.ping) == "pong"


async def exits() -> None:
    raise SystemExit(3)


async def exits_in_a_nursery() -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(exits)
        await trio.sleep_forever()


@pytest.mark.parametrize("task", [exits, exits_in_a_nursery])
async def test_a_spawned_task_that_exits_the_program_ends_the_node_in_order(
    task: Callable[[], Awaitable[object]],
) -> None:
    ended: list[object] = []

    async def work(it: Server) -> None:
        it.spawn(task)

    async def live() -> None:
        async with open_node() as node:
            await node.start(Server(ended))
            ref = await node.start(Server())
            await ref.cast(Server.run, work)
            await trio.sleep_forever()

    with pytest.raises(SystemExit):
        await live()
    assert ended == ["shutdown"]


Waiting = Callable[[Server], Awaitable[object]]


async def send_after_nan(it: Server) -> None:
    it.send_after(math.nan, "late")


async def idle_for_nan(it: Server) -> None:
    it.idle_timeout(math.nan)


async def call_for_nan(it: Server) -> None:
    other = await it.node.start(Server())
    await other.call(Server.ping, timeout=math.nan)


@pytest.mark.parametrize("work", [send_after_nan, idle_for_nan, call_for_nan])
async def test_nan_seconds_are_refused_where_they_are_given(work: Waiting) -> None:
    async with open_node() as node:
        bystander = await node.start(Server())
        ref = await node.start(Server())
        with pytest.raises(CalleeExitedError, match=r"ValueError: .* NaN"):
            await ref.call(Server.run, work)
        assert await bystander.call(Server.ping) == "pong"


async def test_a_reason_may_be_a_value_that_cannot_be_compared() -> None:
    reason = Odd()

    async def work(it: Server) -> None:
        it.stop(reason)

    async with open_node() as node:
        bystander = await node.start(Server())
        ref = await node.start(Server())
        await ref.cast(Server.run, work)
        assert await ref.wait_exit() is reason
        stopped = await node.start(Server())
        await stopped.stop(reason)
        assert stopped.exit_reason is reason
        assert await bystander.call(Server.ping) == "pong"
