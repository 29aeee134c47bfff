"""A thread makes progress beside a loop that never waits."""

import hashlib
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

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

    async def spin() -> None:
        while True:
            until = time.perf_counter() + TURN_SECONDS
            while time.perf_counter() < until:
                pass
            await trio.lowlevel.checkpoint()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(spin)
        yield
        nursery.cancel_scope.cancel()


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
    step = dspex.Step(module="Predict", signature="question -> answer")
    program = dspex.Program(name="ask", steps={"answer": step})
    app = dspex.App(program, lm=ScriptedLM(lambda _: '{"answer": "Paris"}'))
    store = tmp_path / "runs.db"
    async with open_app(app, store=store) as runtime, a_busy_loop():
        with trio.fail_after(10):
            for _ in range(5):
                outcome = await runtime.run(program, question="Which?")
                assert outcome.outputs == {"answer": "Paris"}
