"""Threads make progress beside a loop that never waits, and loops beside loops."""

import asyncio
import hashlib
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import NoReturn

import pytest
import trio

import dspex
from dspex.runtime.threads import run_in_thread
from dspex.testing import ScriptedLM
from dspex.worker.application import open_app

TURN_SECONDS = 0.0002


@asynccontextmanager
async def a_busy_loop() -> AsyncGenerator[None]:
    """Keep the loop busy in every turn, each longer than a thread needs to wake up."""

    async with trio.open_nursery() as nursery:
        nursery.start_soon(spin)
        yield
        nursery.cancel_scope.cancel()


async def spin() -> NoReturn:
    while True:
        compute()
        await trio.lowlevel.checkpoint()


def compute() -> None:
    until = time.perf_counter() + TURN_SECONDS
    while time.perf_counter() < until:
        pass


def app() -> dspex.App:
    step = dspex.Step(module="Predict", signature="question -> answer")
    program = dspex.Program(name="ask", steps={"answer": step})
    return dspex.App(program, lm=ScriptedLM(lambda _: '{"answer": "Paris"}'))


def digest_often() -> int:
    for _ in range(100):
        hashlib.sha256(bytes(100_000))  # lets go of the interpreter each time
    return 100


async def test_a_thread_is_not_starved() -> None:
    async with a_busy_loop():
        with trio.fail_after(5):
            assert await run_in_thread(digest_often, abandon_on_cancel=True) == 100


async def test_a_thread_that_fails_or_is_left_is_forgotten() -> None:
    with pytest.raises(ZeroDivisionError):
        await run_in_thread(divmod, 1, 0)
    with trio.move_on_after(0.01) as scope:
        await run_in_thread(time.sleep, 0.1, abandon_on_cancel=True)
    assert scope.cancelled_caught
    assert await run_in_thread(divmod, 7, 2) == (3, 1)


async def test_runs_are_kept_beside_a_busy_loop(tmp_path: Path) -> None:
    store = tmp_path / "runs.db"
    async with open_app(app(), store=store) as runtime, a_busy_loop():
        with trio.fail_after(10):
            for _ in range(5):
                run = await runtime.run("ask", question="Which?")
                assert run.outputs == {"answer": "Paris"}


def test_the_runtime_is_not_starved_by_a_busy_asyncio_loop() -> None:
    async def main() -> None:
        async with dspex.aio.open_runtime(app()) as rt:
            spinning = asyncio.create_task(spin_in_asyncio())
            async with asyncio.timeout(10):
                for _ in range(5):
                    run = await rt.run("ask", question="Which?")
                    assert run.outputs == {"answer": "Paris"}
            spinning.cancel()

    asyncio.run(main())


async def spin_in_asyncio() -> NoReturn:
    while True:
        compute()
        await asyncio.sleep(0)


def test_asyncio_is_not_starved_by_a_busy_runtime() -> None:
    async def main() -> None:
        async with dspex.aio.open_runtime(app()) as rt:
            spinning = asyncio.create_task(rt.call(lambda _: spin()))
            began = time.perf_counter()
            for _ in range(20):
                await asyncio.sleep(0.001)
            # Far from both: a fraction of a second with pauses, minutes without.
            assert time.perf_counter() - began < 10
            spinning.cancel()
            with pytest.raises(asyncio.CancelledError):
                await spinning

    asyncio.run(main())
