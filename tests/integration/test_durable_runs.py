"""Runs in a store: accepted means finished, and nothing finished is paid twice."""

import hashlib
import json
import os
import signal
import sqlite3
from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import Any, Literal

import pytest
import trio

from dspex.modules import Module, Predict, run_context
from dspex.providers import Request
from dspex.runtime.engine import (
    NondeterminismError,
    Program,
    ProgramOptions,
    RunFailedError,
    Step,
    StepFailedError,
)
from dspex.runtime.engine.runs import DurableRuns
from dspex.runtime.journal import (
    WRITER,
    RunCancelledError,
    RunNotFoundError,
    StoreFullError,
)
from dspex.runtime.journal.store import Store
from dspex.testing import ScriptedLM, open_fake_provider
from dspex.worker.durable import RUNS
from dspex.worker.errors import NoStoreError
from dspex.worker.open_runtime import KeepText, open_runtime
from dspex.worker.runs import KeyReusedError
from tests.integration.dspex_command import (
    dspex,
    eventually,
    schema_answers,
    start,
)
from tests.journal.test_faults import empty, fill

CHAIN = Program(
    name="chain",
    steps={
        "first": Step(module="Predict", signature="ticket -> summary"),
        "second": Step(module="Predict", signature="summary -> category"),
        "third": Step(module="Predict", signature="category -> reply"),
    },
)


def answers(delay: float = 0.0) -> ScriptedLM:
    """Answer each question with JSON that tells which question it was."""

    def rule(request: Request) -> str:
        assert request.output_schema is not None
        asked = request.messages[-1].text.encode()
        value = hashlib.sha256(asked).hexdigest()[:8]
        fields: Any = request.output_schema.schema["properties"]
        return json.dumps(dict.fromkeys(fields, value))

    return ScriptedLM(rule, delay=delay)


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "runs.db"


def query(store: Path, sql: str) -> list[Any]:
    with closing(sqlite3.connect(store)) as connection:
        return connection.execute(sql).fetchall()


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


class Twice(Module):
    """A program as code: the second question depends on the first answer."""

    first = "ticket -> summary"

    def __init__(self) -> None:
        self.summarize = Predict(self.first)
        self.reply = Predict("summary -> reply")

    async def forward(self, ticket: str) -> dict[str, Any]:
        summary = (await self.summarize(ticket=ticket)).summary
        return {"reply": (await self.reply(summary=summary)).reply}


class Changed(Twice):
    first = "ticket -> summary, mood"


def code_program(on_change: Literal["live", "fail"]) -> Program:
    return Program(
        name="code",
        steps={"main": Step(module="Twice", signature="ticket -> reply")},
        options=ProgramOptions(on_change=on_change),
    )


async def interrupt(store: Path, program: Program) -> str:
    """Leave a run of a program as code after its first call."""
    slow = answers(delay=0.3)
    async with open_runtime(slow, store=store, modules={"Twice": Twice}) as rt:
        run = await rt.submit(program, {"ticket": "help"})
        assert await eventually(lambda: len(slow.requests) == 2, seconds=10)
    return run


async def test_a_program_as_code_goes_on_where_it_was(store: Path) -> None:
    run = await interrupt(store, code_program("fail"))
    lm = answers()
    async with open_runtime(lm, store=store, modules={"Twice": Twice}) as rt:
        ended = await rt.result(run, timeout=10)
    assert set(ended.outputs) == {"reply"}
    assert len(lm.requests) == 1
    assert (ended.steps[0].live, ended.steps[0].journaled) == (1, 1)


async def test_code_that_changed_says_so_or_goes_on_live(store: Path) -> None:
    strict = await interrupt(store, code_program("fail"))
    live = await interrupt(store, code_program("live"))
    async with open_runtime(answers(), store=store, modules={"Twice": Changed}) as rt:
        failed = await rt.result(strict, timeout=10)
        ended = await rt.result(live, timeout=10)
    assert isinstance(failed.error, StepFailedError)
    assert isinstance(failed.error.__cause__, NondeterminismError)
    assert ended.status == "succeeded"
    assert (ended.steps[0].live, ended.steps[0].journaled) == (2, 0)


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


async def test_a_predictor_with_a_model_of_its_own_is_not_paid_twice_either(
    store: Path,
) -> None:
    own = answers()

    class Both(Module):
        def __init__(self) -> None:
            self.first = Predict("ticket -> summary", lm=own)
            self.second = Predict("summary -> reply")

        async def forward(self, ticket: str) -> dict[str, object]:
            summary = (await self.first(ticket=ticket)).summary
            return {"reply": (await self.second(summary=summary)).reply}

    step = Step(module="Both", signature="ticket -> reply")
    program, modules = Program(name="both", steps={"both": step}), {"Both": Both}
    stuck = answers(delay=60)
    async with open_runtime(stuck, modules=modules, store=store) as rt:
        run = await rt.submit(program, {"ticket": "x"})
        assert await eventually(lambda: len(stuck.requests) == 1, seconds=10)
    async with open_runtime(answers(), modules=modules, store=store) as rt:
        ended = await rt.result(run, timeout=10)
        another = await rt.submit(program, {"ticket": "y"})
        whole = await rt.result(another, timeout=10)
        told = [it async for it in rt.events(another) if it.kind == "call_finished"]
    assert [len(it.requests) for it in (own, stuck)] == [2, 1]
    assert [("ticket" in it.data["prompt"][-1]["text"]) for it in told] == [True, False]
    assert (ended.steps[0].live, ended.steps[0].journaled) == (1, 1)
    # What both took counts.
    assert [run.steps[0].usage for run in (ended, whole)] == [whole.steps[0].usage] * 2


class Lottery(Module):
    """Asks the run for time, chance and identity, then a model."""

    def __init__(self) -> None:
        self.ask = Predict("question -> answer")

    async def forward(self, name: str) -> dict[str, object]:
        drawn = [
            (await run_context.now()).isoformat(),
            str((await run_context.random()).random()),
            str(await run_context.uuid()),
            str(await run_context.uuid()),
        ]
        answer = (await self.ask(question=f"{name}: {drawn}")).answer
        return {"drawn": [*drawn, answer]}


async def test_time_chance_and_identity_are_asked_once_in_a_run(store: Path) -> None:
    program = Program(
        name="lottery",
        steps={"draw": Step(module="Lottery", signature="name -> drawn: list[str]")},
    )
    modules = {"Lottery": Lottery}
    stuck = answers(delay=60)
    async with open_runtime(stuck, modules=modules, store=store) as rt:
        run = await rt.submit(program, {"name": "a"})
        assert await eventually(lambda: len(stuck.requests) == 1, seconds=10)
    asked = stuck.requests[0].messages[-1].text
    lm = answers()
    async with open_runtime(lm, modules=modules, store=store) as rt:
        ended = await rt.result(run, timeout=10)
        kinds = Counter(effect.kind for effect in await rt.journal.effects(run))
        # Another run draws anew.
        other = await rt.run(program, name="a")
    drawn: list[str] = ended.outputs["drawn"]
    # The very question that the first process asked: nothing was drawn twice.
    assert lm.requests[0].messages[-1].text == asked
    assert drawn[2] != drawn[3]
    assert kinds == {"context": 4, "model": 1}
    assert not set(drawn) & set(other.outputs["drawn"])


async def test_outside_a_run_they_are_made_up() -> None:
    assert await run_context.uuid() != await run_context.uuid()
    first, second = await run_context.random(), await run_context.random()
    assert first.random() != second.random()
    assert (await run_context.now()).tzinfo is not None


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
