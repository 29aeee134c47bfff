"""What is left behind: nothing, whichever way dspex or its children end."""

import os
import signal
import time
from pathlib import Path

import pytest
import trio

from dspex.testing import Action, Hang, ProviderRequest, open_fake_provider
from tests.integration.dspex_command import (
    PROGRAM,
    TICKETS,
    children,
    dspex,
    dspy_processes,
    eventually,
    is_alive,
    kill,
    schema_answers,
    start,
)


def hang(request: ProviderRequest) -> Action:
    return Hang()


@pytest.mark.parametrize(
    ("number", "status"),
    [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGKILL, -9)],
)
async def test_a_signal_ends_dspex_and_every_child(
    number: signal.Signals, status: int
) -> None:
    process = start("run", PROGRAM, "--inputs", TICKETS)
    try:
        # The model server and the dspy process.
        assert await eventually(lambda: len(children(process.pid)) >= 2, seconds=20)
        await trio.sleep(2)  # let tickets be in flight
        left = children(process.pid)
        sent = time.monotonic()
        process.send_signal(number)
        assert await trio.to_thread.run_sync(process.wait) == status
        assert time.monotonic() - sent < 2
        assert await eventually(
            lambda: not any(is_alive(pid) for pid in left), seconds=3
        )
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize("delay", [0.3, 0.8, 1.2, 1.6])
async def test_ctrl_c_during_the_start_ends_it_too(delay: float) -> None:
    async with open_fake_provider(hang) as server:
        process = start(
            "run", PROGRAM, "--inputs", TICKETS, "--lm", "openai:x",
            "--base-url", server.url,
        )  # fmt: skip
        try:
            await trio.sleep(delay)
            left = children(process.pid)
            sent = time.monotonic()
            process.send_signal(signal.SIGINT)
            status = await trio.to_thread.run_sync(process.wait)
            assert time.monotonic() - sent < 2
            # Before its own handlers are there, Python's default ends it.
            assert status in (130, 1, -2)
            assert not any(is_alive(pid) for pid in left)
        finally:
            process.kill()
            process.wait()


async def test_twenty_tickets_finish_while_the_dspy_process_is_killed_again_and_again(
    tmp_path: Path,
) -> None:
    inputs = tmp_path / "in.jsonl"
    inputs.write_bytes(TICKETS.read_bytes() * 2)
    kills = 0
    async with (
        open_fake_provider(schema_answers(delay=0.6)) as server,
        trio.open_nursery() as nursery,
    ):

        async def harm() -> None:
            nonlocal kills
            while True:
                await trio.sleep(2)
                for pid in dspy_processes(os.getpid()):
                    kill(pid)
                    kills += 1

        nursery.start_soon(harm)
        done = await dspex(
            "run", PROGRAM, "--inputs", inputs, "--json", "--concurrency", "2",
            "--lm", "openai:fake", "--base-url", server.url,
        )  # fmt: skip
        nursery.cancel_scope.cancel()
    assert done.status == 0, done.err
    assert [row["status"] for row in done.rows] == ["succeeded"] * 20
    assert kills >= 3
    assert sum(step["restarts"] for row in done.rows for step in row["steps"]) > 0
    # Two steps a ticket; what was finished or under way was not asked for again.
    assert len(server.requests) == 40
