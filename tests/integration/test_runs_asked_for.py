"""A runtime that resumes nothing finishes what it was asked for, whoever had it."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import trio

from dspex import Program, Step, open_runtime
from dspex.runtime.engine.runs import DurableRuns
from dspex.runtime.journal import AcceptRun
from dspex.supervisors import Supervisor
from dspex.testing import ScriptedLM
from dspex.worker.durable import RUNS
from dspex.worker.open_runtime import ROOT as TREE
from tests.integration.dspex_command import ROOT, eventually

LEASE_SECONDS = 1.0
PROGRAM = Program(
    name="two",
    steps={
        "first": Step(module="Predict", signature="q -> a"),
        "second": Step(module="Predict", signature="a -> b"),
    },
)
ANSWER = '{"a": "1", "b": "2"}'

ACCEPT_AND_HANG = """
import sys, trio
from dspex import open_runtime
from dspex.testing import ScriptedLM
from tests.integration.test_runs_asked_for import LEASE_SECONDS, PROGRAM

async def main():
    lm = ScriptedLM(lambda _: "", delay=600)
    async with open_runtime(
        lm, store=sys.argv[1], resume=False, lease_seconds=LEASE_SECONDS
    ) as rt:
        for key in sys.argv[2:]:
            await rt.submit(PROGRAM, {"q": key}, key=key)
        print("accepted", flush=True)
        await trio.sleep_forever()

trio.run(main)
"""


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "runs.db"


async def test_a_key_whose_process_was_killed_is_taken_up_and_no_other_run(
    store: Path,
) -> None:
    lm = ScriptedLM(lambda _: ANSWER)
    with subprocess.Popen(
        [sys.executable, "-c", ACCEPT_AND_HANG, store, "mine", "other"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
    ) as dead:
        try:
            assert dead.stdout is not None
            assert await trio.to_thread.run_sync(dead.stdout.readline) == b"accepted\n"
            async with open_runtime(
                lm, store=store, resume=False, lease_seconds=LEASE_SECONDS
            ) as rt:
                run = await rt.submit(PROGRAM, {"q": "mine"}, key="mine")
                with pytest.raises(trio.TooSlowError):  # it lives
                    await rt.result(run, timeout=2 * LEASE_SECONDS)
                dead.kill()
                await trio.to_thread.run_sync(dead.wait)
                ended = await rt.result(run, timeout=10)
                states = {row.id == run: row.state for row in await rt.journal.runs()}
        finally:
            dead.kill()
    assert ended.outputs == {"a": "1", "b": "2"}
    assert len(lm.requests) == 2
    assert states == {True: "succeeded", False: "pending"}


async def test_a_key_whose_process_ended_is_taken_up(store: Path) -> None:
    slow = ScriptedLM(lambda _: ANSWER, delay=60)
    async with open_runtime(slow, store=store, resume=False) as rt:
        run = await rt.submit(PROGRAM, {"q": "?"}, key="mine")
        assert await eventually(lambda: len(slow.requests) == 1, seconds=10)
    lm = ScriptedLM(lambda _: ANSWER)
    async with open_runtime(
        lm, store=store, resume=False, lease_seconds=LEASE_SECONDS
    ) as rt:
        assert await rt.submit(PROGRAM, {"q": "?"}, key="mine") == run
        assert (await rt.result(run, timeout=10)).status == "succeeded"
    assert len(lm.requests) == 2


async def test_a_crash_of_what_executes_them_loses_no_run(store: Path) -> None:
    lm = ScriptedLM(lambda _: ANSWER, delay=0.2)
    async with open_runtime(
        lm, store=store, resume=False, lease_seconds=LEASE_SECONDS
    ) as rt:
        run = await rt.submit(PROGRAM, {"q": "?"})
        assert await eventually(lambda: len(lm.requests) == 2, seconds=10)
        (await rt.node.registry.wait_for(RUNS)).exit("kill")
        ended = await rt.result(run, timeout=10)
    assert [(it.live, it.journaled) for it in ended.steps] == [(0, 1), (1, 0)]


async def test_an_orderly_restart_of_what_executes_them_loses_no_run(
    store: Path,
) -> None:
    lm = ScriptedLM(lambda _: ANSWER, delay=0.2)
    async with open_runtime(
        lm, store=store, resume=False, lease_seconds=LEASE_SECONDS
    ) as rt:
        run = await rt.submit(PROGRAM, {"q": "?"})
        assert await eventually(lambda: len(lm.requests) == 1, seconds=10)
        root = await rt.node.registry.wait_for(TREE)
        await root.call(Supervisor.terminate_child, RUNS)
        await root.call(Supervisor.restart_child, RUNS)
        assert (await rt.result(run, timeout=10)).status == "succeeded"


async def test_runs_of_a_worker_that_was_taken_for_dead_are_taken_up_again(
    store: Path,
) -> None:
    lm = ScriptedLM(lambda _: ANSWER, delay=0.5)
    async with open_runtime(
        lm, store=store, resume=False, lease_seconds=LEASE_SECONDS
    ) as rt:
        run = await rt.submit(PROGRAM, {"q": "?"})
        owner = (await rt.journal.run(run)).owner
        assert owner is not None
        # As another process does that then ends before it executes anything.
        assert await rt.journal.bury([owner]) == 1
        assert (await rt.result(run, timeout=10)).status == "succeeded"


async def test_what_is_claimed_before_a_worker_learns_that_it_was_buried_is_not_lost(
    store: Path,
) -> None:
    lm = ScriptedLM(lambda _: ANSWER, delay=0.2)
    async with open_runtime(
        lm, store=store, resume=False, lease_seconds=4 * LEASE_SECONDS, max_running=1
    ) as rt:
        begun = await rt.submit(PROGRAM, {"q": "1"})
        waiting = await rt.submit(PROGRAM, {"q": "2"})
        owner = (await rt.journal.run(begun)).owner
        assert owner is not None
        assert await rt.journal.bury([owner]) == 1
        for run in (begun, waiting):
            assert (await rt.result(run, timeout=10)).status == "succeeded"


async def test_a_start_that_comes_after_its_worker_was_buried_is_not_lost(
    store: Path,
) -> None:
    lm = ScriptedLM(lambda _: ANSWER)
    async with open_runtime(
        lm, store=store, resume=False, lease_seconds=LEASE_SECONDS
    ) as rt:
        first = await rt.submit(PROGRAM, {"q": "?"})
        await rt.result(first, timeout=10)
        # As accepted for a worker that the store does not know any more.
        write = AcceptRun("r", "two", 1, '{"q": "?"}', "{}", 0.0, "buried", True)
        assert await rt.journal.accept(write)
        row = replace(await rt.journal.run("r"), owner="buried")
        runs = await rt.node.registry.wait_for(RUNS)
        await runs.cast(DurableRuns.start, row)
        assert (await rt.result("r", timeout=10)).status == "succeeded"
