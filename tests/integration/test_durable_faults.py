"""Runs in a store: whatever dies or fills up, nothing finished is paid twice."""

import json
import os
import signal
import sqlite3
from collections import Counter
from contextlib import closing
from pathlib import Path

import pytest
import trio

from dspex.runtime.engine.runs import DurableRuns
from dspex.runtime.journal import WRITER, StoreFullError
from dspex.runtime.journal.store import Store
from dspex.testing import open_fake_provider
from dspex.worker.durable import RUNS
from dspex.worker.open_runtime import open_runtime
from tests.integration.chain_program import CHAIN, answers, query
from tests.integration.dspex_command import dspex, eventually, schema_answers, start
from tests.journal.test_faults import empty, fill


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "runs.db"


@pytest.mark.parametrize("resume", [True, False])
async def test_a_run_whose_submit_was_cancelled_in_its_commit_is_finished(
    store: Path, *, resume: bool
) -> None:
    lm = answers()
    async with open_runtime(lm, store=store, resume=resume, lease_seconds=0.4) as rt:
        await rt.run(CHAIN, ticket="first")
        asked = len(lm.requests)
        with closing(sqlite3.connect(store)) as other:
            other.execute("BEGIN IMMEDIATE")
            with trio.move_on_after(0.2) as scope:
                await rt.submit(CHAIN, {"ticket": "x"}, key="mine")
            other.execute("ROLLBACK")
        assert scope.cancelled_caught
        run = await rt.submit(CHAIN, {"ticket": "x"}, key="mine")
        ended = await rt.result(run, timeout=10)
        assert ended.status == "succeeded"
        assert len(lm.requests) == asked + 3


async def test_a_kill_in_the_middle_repeats_no_journaled_call(
    store: Path, tmp_path: Path
) -> None:
    inputs = tmp_path / "inputs.jsonl"
    inputs.write_text(
        "".join(json.dumps({"ticket": f"ticket {n}"}) + "\n" for n in range(12))
    )
    program = tmp_path / "program.yaml"
    program.write_text(json.dumps(CHAIN.model_dump(mode="json")))
    async with open_fake_provider(schema_answers(0.05)) as server:
        model = ("--lm", "openai:fake", "--base-url", server.url, "--store", store)
        worker = start(
            "run", program, "--inputs", inputs, "--json", "--concurrency", "4", *model
        )

        def finished() -> int:
            try:
                return int(query(store, "SELECT count(*) FROM effect")[0][0])
            except sqlite3.Error:
                return 0

        assert await eventually(lambda: finished() >= 10, seconds=60)
        worker.send_signal(signal.SIGKILL)
        await trio.to_thread.run_sync(worker.wait)
        assert query(store, "SELECT count(*) FROM run") == [(12,)]
        kept = Counter(
            json.dumps(json.loads(text)["messages"], sort_keys=True)
            for (text,) in query(store, "SELECT request FROM effect")
        )
        assert 10 <= kept.total() < 36
        asked_before = len(server.requests)
        done = await dspex("runs", "resume", "--json", *model)
        asked_again = len(server.requests) - asked_before
    assert done.status == 0, done.err
    assert query(store, "SELECT state, count(*) FROM run GROUP BY state") == [
        ("succeeded", 12)
    ]
    # Twelve runs of three calls; what was kept was not asked for again.
    assert asked_again == 36 - kept.total()
    assert query(store, "SELECT count(*) FROM effect") == [(36,)]
    listed = await dspex("runs", "list", "--store", store)
    assert listed.out.count("succeeded") == 12
    run = query(store, "SELECT id FROM run LIMIT 1")[0][0]
    shown = await dspex("runs", "show", run[:8], "--store", store)
    assert shown.status == 0, shown.err
    assert "first (native)" in shown.out
    assert "█" in shown.out


@pytest.mark.parametrize("resume", [True, False])
async def test_killed_actors_of_the_journal_cost_no_second_call(
    store: Path, resume: bool
) -> None:
    lm = answers(delay=0.02)
    async with open_runtime(lm, store=store, lease_seconds=0.4, resume=resume) as rt:
        runs = [await rt.submit(CHAIN, {"ticket": f"t{n}"}) for n in range(20)]
        for name in (RUNS, WRITER, RUNS, WRITER):
            await trio.sleep(0.03)
            ref = await rt.node.registry.wait_for(name)
            ref.exit("kill")
        ended = [await rt.result(run, timeout=20) for run in runs]
    assert {run.status for run in ended} == {"succeeded"}
    assert query(store, "SELECT count(*) FROM effect") == [(60,)]
    # In flight at each kill of the actor that runs: no more than the runs.
    assert len(lm.requests) <= 60 + 2 * 20


async def test_a_run_that_ended_when_its_actor_was_dead_is_told_to_who_follows(
    store: Path,
) -> None:
    kinds: list[str] = []

    async def follow(run: str) -> None:
        async for event in rt.events(run):
            kinds.append(event.kind)  # noqa: PERF401 - read before the last comes

    async with (
        open_runtime(answers(delay=60), store=store, lease_seconds=1) as rt,
        trio.open_nursery() as nursery,
    ):
        run = await rt.submit(CHAIN, {"ticket": "x"})
        nursery.start_soon(follow, run)
        assert await eventually(lambda: "step_started" in kinds, seconds=5)
        # Another process cancels it, and this one's actor dies before it learns of it.
        await rt.journal.cancel(run)
        (await rt.node.registry.wait_for(RUNS)).exit("kill")
        assert await eventually(lambda: "finished" in kinds, seconds=5)
        assert not rt.table.unfinished


async def test_the_actors_of_runs_are_restarted_under_the_root(store: Path) -> None:
    async with open_runtime(answers(), store=store) as rt:
        before = await rt.node.registry.wait_for(RUNS)
        before.exit("kill")
        assert await eventually(lambda: not before.is_alive, seconds=5)
        after = await rt.node.registry.wait_for(RUNS)
        assert isinstance(after.port.actor, DurableRuns)
        assert (await rt.run(CHAIN, ticket="x")).status == "succeeded"
    assert os.path.getsize(store) > 0


async def test_a_full_disk_interrupts_a_run_which_goes_on_when_there_is_room(
    store: Path,
) -> None:
    lm = answers(delay=0.05)
    async with open_runtime(lm, store=store, lease_seconds=0.4) as rt:
        await rt.run(CHAIN, ticket="before")
        run = await rt.submit(CHAIN, {"ticket": "x" * 20_000})
        opened = rt.journal.store
        assert isinstance(opened, Store)
        await trio.to_thread.run_sync(fill, opened)
        assert await eventually(lambda: len(lm.requests) >= 4, seconds=5)
        await trio.sleep(0.3)
        assert (await rt.journal.run(run)).state == "running"
        await trio.to_thread.run_sync(empty, opened)
        ended = await rt.result(run, timeout=10)
    assert ended.status == "succeeded"
    # What was answered while the disk was full was kept in memory and written later.
    assert len({str(request.messages) for request in lm.requests}) == len(lm.requests)


async def test_who_waits_for_a_run_is_told_that_the_disk_stays_full(
    store: Path,
) -> None:
    lm = answers(delay=0.05)
    async with open_runtime(lm, store=store, lease_seconds=0.4) as rt:
        await rt.run(CHAIN, ticket="before")
        run = await rt.submit(CHAIN, {"ticket": "x" * 20_000})
        opened = rt.journal.store
        assert isinstance(opened, Store)
        await trio.to_thread.run_sync(fill, opened)
        for _ in range(2):  # and so is who comes later
            with pytest.raises(StoreFullError, match="free room"):
                await rt.result(run, timeout=10)
        await trio.to_thread.run_sync(empty, opened)
        assert (await rt.result(run, timeout=10)).status == "succeeded"
