"""What the kernel is measured against: the bare limits of trio, pykka, triotp."""

import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import outcome
import trio
import trio.testing

Measure = Callable[[int], Awaitable[float]]

_PEER = Path(__file__).with_name("_triotp_peer.py")


async def lowlevel_round_trips(times: int) -> float:
    """Two tasks that reschedule each other: the most that trio can do."""
    tasks: list[trio.lowlevel.Task] = []

    def abort(_: object) -> trio.lowlevel.Abort:
        return trio.lowlevel.Abort.SUCCEEDED

    async def server() -> None:
        tasks.append(trio.lowlevel.current_task())
        while True:
            await trio.lowlevel.wait_task_rescheduled(abort)
            trio.lowlevel.reschedule(client, outcome.Value(None))

    client = trio.lowlevel.current_task()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(server)
        await trio.testing.wait_all_tasks_blocked()
        began = time.perf_counter()
        for _ in range(times):
            trio.lowlevel.reschedule(tasks[0], outcome.Value(None))
            await trio.lowlevel.wait_task_rescheduled(abort)
        seconds = time.perf_counter() - began
        nursery.cancel_scope.cancel()
    return times / seconds


async def pykka_round_trips(times: int) -> float:
    import pykka

    class PykkaEcho(pykka.ThreadingActor):
        def on_receive(self, message: object) -> object:
            return message

    ref = PykkaEcho.start()
    try:
        began = time.perf_counter()
        for n in range(times):
            ref.ask(n)
        return times / (time.perf_counter() - began)
    finally:
        ref.stop()


def triotp_by(python: str) -> Measure:
    async def triotp_round_trips(times: int) -> float:
        done = await trio.run_process(
            [python, str(_PEER), str(times)], capture_stdout=True
        )
        return float(done.stdout)

    return triotp_round_trips


async def channel_sends(times: int) -> float:
    """The same work through a trio memory channel."""
    send, receive = trio.open_memory_channel[int](10_000)
    count = 0

    async def note(_: int) -> None:
        nonlocal count
        count += 1

    async def reader() -> None:
        async for value in receive:
            await note(value)

    began = time.perf_counter()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(reader)
        async with send:
            for n in range(times):
                await send.send(n)
    assert count == times
    return times / (time.perf_counter() - began)


async def bare_task() -> None:
    with trio.CancelScope():
        await trio.sleep_forever()


async def bare_start_seconds(times: int) -> float:
    async with trio.open_nursery() as nursery:
        began = time.perf_counter()
        for _ in range(times):
            nursery.start_soon(bare_task)
        # One turn may run this task first: by the second one all have begun.
        await trio.lowlevel.checkpoint()
        await trio.lowlevel.checkpoint()
        seconds = time.perf_counter() - began
        nursery.cancel_scope.cancel()
    return seconds / times
