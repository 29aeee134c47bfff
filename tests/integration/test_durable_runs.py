"""Runs in a store: accepted means finished, by this process or the next."""

from pathlib import Path

import pytest

from dspex.runtime.engine import RunFailedError, Step
from dspex.runtime.journal import RunCancelledError, RunNotFoundError
from dspex.testing import ScriptedLM
from dspex.worker.errors import NoStoreError
from dspex.worker.open_runtime import KeepText, open_runtime
from dspex.worker.runs import KeyReusedError
from tests.integration.chain_program import CHAIN, answers, query
from tests.integration.dspex_command import eventually


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "runs.db"


async def test_a_run_is_kept_whole_and_read_by_the_next_process(store: Path) -> None:
    async with open_runtime(answers(), store=store) as rt:
        run = await rt.run(CHAIN, ticket="help")
        assert run.status == "succeeded"
        kinds = [event.kind async for event in rt.events(run.id)]
    assert kinds[:2] == ["accepted", "started"]
    assert kinds.count("step_finished") == 3
    assert kinds[-1] == "finished"
    lm = answers()
    async with open_runtime(lm, store=store) as rt:
        again = await rt.result(run.id, timeout=5)
        assert kinds[0] == "accepted"
        stored = [event.kind async for event in rt.events(run.id)]
    assert stored[:2] == ["accepted", "started"]
    assert stored.count("step_finished") == 3
    assert stored[-1] == "finished"
    assert again.outputs == run.outputs
    assert [step.live for step in again.steps] == [1, 1, 1]
    assert lm.requests == []


async def test_an_interrupted_run_goes_on_where_it_was(store: Path) -> None:
    slow = answers(delay=0.2)
    async with open_runtime(slow, store=store) as rt:
        run = await rt.submit(CHAIN, {"ticket": "help"})
        assert await eventually(lambda: len(slow.requests) == 2, seconds=10)
    assert query(store, "SELECT state, owner FROM run") == [("pending", None)]
    lm = answers()
    async with open_runtime(lm, store=store) as rt:
        ended = await rt.result(run, timeout=10)
    assert ended.status == "succeeded"
    assert len(lm.requests) == 2
    assert [(step.live, step.journaled) for step in ended.steps] == [
        (0, 1),
        (1, 0),
        (1, 0),
    ]


async def test_more_runs_than_places_wait_in_the_store(store: Path) -> None:
    lm = answers(delay=0.01)
    async with open_runtime(lm, store=store, max_running=3) as rt:
        runs = [await rt.submit(CHAIN, {"ticket": f"t{n}"}) for n in range(20)]
        assert len(rt.in_flight) <= 3
        ended = [await rt.result(run, timeout=20) for run in runs]
    assert {run.status for run in ended} == {"succeeded"}


async def test_a_cancelled_run_stops_and_stays_cancelled(store: Path) -> None:
    lm = answers(delay=30.0)
    async with open_runtime(lm, store=store) as rt:
        run = await rt.submit(CHAIN, {"ticket": "x"})
        assert await eventually(lambda: len(lm.requests) == 1, seconds=5)
        await rt.cancel(run)
        with pytest.raises(RunCancelledError, match="was cancelled"):
            await rt.result(run, timeout=5)
        assert rt.in_flight == ()
        with pytest.raises(RunNotFoundError):
            await rt.cancel("unknown")
        # What it did is there at once, for every process.
        row = await rt.journal.run(run)
        assert rt.table.counts["cancelled"] == 1
    shown = [(it["name"], it["state"], it["attempts"]) for it in row.steps]
    assert shown == [
        ("first", "cancelled", 1), ("second", "pending", 0), ("third", "pending", 0),
    ]  # fmt: skip
    lm = answers()
    async with open_runtime(lm, store=store) as rt:
        with pytest.raises(RunCancelledError, match="was cancelled"):
            await rt.result(run, timeout=5)
    assert lm.requests == []


async def test_a_failed_run_is_told_to_the_next_process(store: Path) -> None:
    async with open_runtime(ScriptedLM([]), store=store) as rt:
        run = await rt.run(CHAIN, ticket="x")
        assert run.status == "failed"
    async with open_runtime(answers(), store=store) as rt:
        again = await rt.result(run.id, timeout=5)
    with pytest.raises(RunFailedError, match="step 'first' failed") as caught:
        _ = again.outputs
    assert caught.value.kind == "StepFailedError"


async def test_the_same_key_is_the_same_run_in_every_process(store: Path) -> None:
    lm = answers()
    async with open_runtime(lm, store=store) as rt:
        first = await rt.submit(CHAIN, {"ticket": "x"}, key="mine")
        await rt.result(first, timeout=5)
    async with open_runtime(lm, store=store) as rt:
        assert await rt.submit(CHAIN, {"ticket": "x"}, key="mine") == first
        with pytest.raises(KeyReusedError, match="'mine' belongs to run"):
            await rt.submit(CHAIN, {"ticket": "other"}, key="mine")
    assert len(lm.requests) == 3


async def test_a_resumed_run_uses_the_version_it_was_accepted_with(store: Path) -> None:
    slow = answers(delay=30)
    async with open_runtime(slow, store=store) as rt:
        run = await rt.submit(CHAIN, {"ticket": "x"})
    changed = CHAIN.model_copy(
        update={"steps": {"only": Step(module="Predict", signature="ticket -> reply")}}
    )
    async with open_runtime(answers(), store=store) as rt:
        new = await rt.run(changed, ticket="x")
        old = await rt.result(run, timeout=5)
    assert set(new.outputs) == {"reply"}
    assert set(old.outputs) == {"summary", "category", "reply"}
    assert query(store, "SELECT version FROM program ORDER BY version") == [(1,), (2,)]


async def test_drain_lets_running_runs_end_and_starts_no_more(store: Path) -> None:
    lm = answers(delay=0.1)
    async with open_runtime(lm, store=store, max_running=2) as rt:
        for n in range(6):
            await rt.submit(CHAIN, {"ticket": f"t{n}"})
        assert await rt.drain(timeout=10)
    states = dict(query(store, "SELECT state, count(*) FROM run GROUP BY state"))
    assert states == {"succeeded": 2, "pending": 4}


async def test_without_a_store_there_is_nothing_to_drain() -> None:
    async with open_runtime(answers()) as rt:
        with pytest.raises(NoStoreError, match="drain needs a store"):
            await rt.drain(timeout=1)


@pytest.mark.parametrize(
    ("keep_text", "left"),
    [(True, "summary"), ("hash", '{"sha256": "'), (False, "None")],
)
async def test_what_is_left_of_prompts_and_answers_is_a_policy(
    store: Path, keep_text: KeepText, left: str
) -> None:
    async with open_runtime(answers(), store=store, keep_text=keep_text) as rt:
        run = await rt.run(CHAIN, ticket="help")
    assert run.status == "succeeded"
    rows = query(store, "SELECT request, response FROM effect")
    assert len(rows) == 3
    assert all(left in str(text) for text in rows[0])
