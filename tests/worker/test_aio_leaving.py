"""Callers of an asyncio service that leave: cancelled once, by anyio, or too late."""

import asyncio
import gc
import threading
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from pathlib import Path

import pytest
import trio

import dspex
from dspex.worker.aio import AioRuntime
from dspex.worker.app import Runtime
from tests.worker.triage_app import app, in_asyncio

anyio = pytest.importorskip("anyio")

Cancel = Callable[[Awaitable[None], asyncio.Event], Awaitable[None]]


async def by_asyncio(work: Awaitable[None], begun: asyncio.Event) -> None:
    task = asyncio.ensure_future(work)
    await begun.wait()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def by_anyio(work: Awaitable[None], begun: asyncio.Event) -> None:
    async def wait() -> None:
        await work

    # anyio cancels anew at each await of the task.
    async with anyio.create_task_group() as group:
        group.start_soon(wait)
        await begun.wait()
        group.cancel_scope.cancel()


CANCELS = pytest.mark.parametrize("cancel", [by_asyncio, by_anyio])
STORES = pytest.mark.parametrize("store", [None, "runs.db"])


async def last_states(runtime: Runtime) -> list[str]:
    """Give the states of the runs, of which there is one, when all have ended."""
    with trio.fail_after(20):
        found: list[str] = []
        while not found or {"pending", "running"} & {*found}:
            await trio.sleep(0.005)
            found = await states(runtime)
    return found


async def states(runtime: Runtime) -> list[str]:
    if runtime.has_store:
        return [it.state for it in await runtime.journal.runs()]
    return [it.status for it in runtime.table]


@CANCELS
@STORES
def test_a_stream_whose_task_is_cancelled_cancels_its_run(
    cancel: Cancel, store: str | None, tmp_path: Path
) -> None:
    async def main() -> list[str]:
        at = None if store is None else tmp_path / store
        async with dspex.aio.open_runtime(app(delay=60), store=at) as rt:
            begun = asyncio.Event()

            async def follow() -> None:
                async for event in rt.stream("triage", ticket="x"):
                    if event.kind == "step_started":
                        begun.set()

            await cancel(follow(), begun)
            return await rt.call(last_states)

    assert in_asyncio(main) == ["cancelled"]


@CANCELS
@STORES
def test_a_stream_that_is_left_while_its_run_is_accepted_cancels_the_run(
    cancel: Cancel, store: str | None, tmp_path: Path
) -> None:
    is_blocked = threading.Event()
    release = threading.Event()

    async def block(_: Runtime) -> None:
        is_blocked.set()
        release.wait(10)  # the whole trio thread: nothing is accepted meanwhile

    async def main() -> list[str]:
        at = None if store is None else tmp_path / store
        async with dspex.aio.open_runtime(app(delay=60), store=at) as rt:
            blocking = asyncio.create_task(rt.call(block))
            await asyncio.to_thread(is_blocked.wait)
            begun = asyncio.Event()

            async def follow() -> None:
                begun.set()
                async for _ in rt.stream("triage", ticket="x"):
                    pytest.fail("nothing can have happened")

            async def leave() -> None:
                await cancel(follow(), begun)

            leaving = asyncio.create_task(leave())
            for _ in range(10):
                await asyncio.sleep(0)
            release.set()
            await leaving
            await blocking
            return await rt.call(last_states)

    assert in_asyncio(main) == ["cancelled"]


@CANCELS
def test_a_cancelled_call_ends_its_work(cancel: Cancel) -> None:
    ended = threading.Event()

    async def main() -> None:
        loop = asyncio.get_running_loop()
        begun = asyncio.Event()

        async def work(_: Runtime) -> None:
            loop.call_soon_threadsafe(begun.set)
            try:
                await trio.sleep_forever()
            finally:
                ended.set()

        async with dspex.aio.open_runtime(app()) as rt:
            await cancel(rt.call(work), begun)
            assert await asyncio.to_thread(ended.wait, 10)

    in_asyncio(main)


@CANCELS
def test_a_run_is_cancelled_by_who_is_cancelled_meanwhile(
    cancel: Cancel, tmp_path: Path
) -> None:
    async def main() -> list[str]:
        async with dspex.aio.open_runtime(
            app(delay=60), store=tmp_path / "runs.db"
        ) as rt:
            begun = asyncio.Event()

            async def answer() -> None:
                run = await rt.submit("triage", {"ticket": "x"})
                try:
                    begun.set()
                    await rt.result(run)
                finally:
                    await rt.cancel(run)

            await cancel(answer(), begun)
            return await rt.call(last_states)

    assert in_asyncio(main) == ["cancelled"]


def test_a_run_that_a_store_has_accepted_outlives_its_cancelled_call(
    tmp_path: Path,
) -> None:
    async def main() -> list[str]:
        async with dspex.aio.open_runtime(
            app(delay=0.2), store=tmp_path / "runs.db"
        ) as rt:
            begun = asyncio.Event()

            async def has_begun(runtime: Runtime) -> None:
                while not runtime.in_flight:  # noqa: ASYNC110 - nothing tells
                    await trio.sleep(0.001)

            async def watch() -> None:
                await rt.call(has_begun)
                begun.set()

            async def run() -> None:
                await rt.run("triage", ticket="x")

            watching = asyncio.create_task(watch())
            await by_asyncio(run(), begun)
            await watching
            return await rt.call(last_states)

    assert in_asyncio(main) == ["succeeded"]


def test_a_stream_that_is_dropped_is_closed_without_a_complaint() -> None:
    complaints: list[str] = []

    async def follow(rt: AioRuntime) -> None:
        async for _ in rt.stream("triage", ticket="x"):
            break

    async def main() -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(
            lambda _, context: complaints.append(context["message"])
        )
        async with dspex.aio.open_runtime(app(delay=60)) as rt:
            await follow(rt)
        await asyncio.sleep(0)
        gc.collect()

    in_asyncio(main)
    assert complaints == []


def test_a_stream_can_be_closed_after_its_runtime() -> None:
    async def main() -> None:
        async with dspex.aio.open_runtime(app(delay=60)) as rt:
            stream = rt.stream("triage", ticket="x")
            await anext(stream)
        async with aclosing(stream):
            pass

    in_asyncio(main)
