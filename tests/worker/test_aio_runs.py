"""Runs inside asyncio: by name, streamed, kept in a store, a thousand at once."""

import asyncio
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

import dspex
from dspex import Run
from dspex.runtime.journal import RunRow
from dspex.worker.app import Runtime
from tests.worker.triage_app import app, in_asyncio, program


def test_a_loaded_program_runs_by_its_name() -> None:
    async def main() -> None:
        async with dspex.aio.open_runtime(app()) as rt:
            run = await rt.run("triage", ticket="My invoice is wrong")
            assert run.outputs == {"category": "billing"}
            again = await rt.run(program(), ticket="It does not start")
            assert again.status == "succeeded"

    in_asyncio(main)


def test_a_stream_that_is_cancelled_while_its_run_is_accepted_cancels_the_run(
    tmp_path: Path,
) -> None:
    store = tmp_path / "runs.db"

    async def main() -> None:
        async with dspex.aio.open_runtime(app(delay=60.0), store=store) as rt:
            assert await rt.call(states) == []

            async def follow() -> None:
                async for _ in rt.stream("triage", ticket="x"):
                    pass

            with closing(sqlite3.connect(store)) as other:
                other.execute("BEGIN IMMEDIATE")
                following = asyncio.create_task(follow())
                await asyncio.sleep(0)  # it has begun, and nothing can be written
                following.cancel()
                await asyncio.sleep(0)
                other.execute("ROLLBACK")
            with pytest.raises(asyncio.CancelledError):
                await following
            assert await rt.call(states) == ["cancelled"]

    in_asyncio(main)


async def rows(runtime: Runtime) -> list[RunRow]:
    return await runtime.journal.runs()


async def states(runtime: Runtime) -> list[str]:
    return [row.state for row in await runtime.journal.runs()]


def test_what_a_service_leaves_unfinished_its_next_process_finishes(
    tmp_path: Path,
) -> None:
    store = tmp_path / "runs.db"

    async def before() -> str:
        slow = app(delay=60.0)
        async with dspex.aio.open_runtime(slow, store=store, drain_timeout=0.0) as rt:
            run = await rt.submit("triage", {"ticket": "x"}, key="ticket 7")
            assert await rt.submit("triage", {"ticket": "x"}, key="ticket 7") == run
            return run

    async def after() -> Run:
        async with dspex.aio.open_runtime(app(), store=store) as rt:
            return await rt.result(run)

    run = in_asyncio(before)
    found = in_asyncio(after)
    assert (found.status, found.outputs) == ("succeeded", {"category": "billing"})
    with dspex.sync.open_runtime(app(), store=store) as rt:
        assert rt.result(run).outputs == found.outputs


def test_without_resume_only_what_was_asked_for_is_run(tmp_path: Path) -> None:
    store = tmp_path / "runs.db"

    async def before() -> str:
        slow = app(delay=60.0)
        async with dspex.aio.open_runtime(slow, store=store, drain_timeout=0.0) as rt:
            return await rt.submit("triage", {"ticket": "x"})

    async def after() -> set[tuple[str, str]]:
        async with dspex.aio.open_runtime(
            app(), store=store, resume=False, max_running=1, lease_seconds=1.0
        ) as rt:
            asked = await rt.run("triage", ticket="y")
            assert asked.status == "succeeded"
            return {(it.id, it.state) for it in await rt.call(rows)}

    left = in_asyncio(before)
    assert (left, "succeeded") not in in_asyncio(after)
    with dspex.sync.open_runtime(
        app(), store=store, resume=True, max_running=1, lease_seconds=1.0
    ) as rt:
        assert rt.result(left).status == "succeeded"


def test_a_thousand_at_once_are_all_answered() -> None:
    async def main() -> None:
        async with dspex.aio.open_runtime(app()) as rt:
            tickets = [rt.run("triage", ticket=str(n)) for n in range(1_000)]
            runs = await asyncio.gather(*tickets)
            assert [run.status for run in runs] == ["succeeded"] * 1_000

    in_asyncio(main)


def test_a_stream_tells_what_a_run_does_up_to_its_end() -> None:
    async def main() -> None:
        async with dspex.aio.open_runtime(app()) as rt:
            events = [it async for it in rt.stream("triage", ticket="x")]
            assert [it.kind for it in events] == [
                "accepted", "started", "step_started", "call_finished",
                "step_finished", "finished",
            ]  # fmt: skip
            assert [it.seq for it in events] == [1, 2, 3, 4, 5, 6]
            assert events[-1].data["status"] == "succeeded"

    in_asyncio(main)


def test_a_stream_that_is_left_cancels_its_run() -> None:
    async def main() -> None:
        async with dspex.aio.open_runtime(app(delay=60)) as rt:
            stream = rt.stream("triage", ticket="x")
            run = (await anext(stream)).run
            await stream.aclose()

            async def status(runtime: Runtime) -> str:
                return runtime.table.get(run).status

            assert await rt.call(status) == "cancelled"

    in_asyncio(main)
