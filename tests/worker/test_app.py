"""The runtime: programs on its tree, and the end of that tree."""

import pytest
import trio
import trio.testing

from dspex import Program, open_runtime
from dspex.runtime.engine import StepFailedError
from dspex.testing import ScriptedLM
from dspex.worker.errors import RuntimeStoppedError
from dspex.worker.run_record import RunRecord
from dspex.worker.runs import TooManyRunsError

ANSWER = '{"category": "billing"}'


def one_step(name: str = "p", *, timeout: float = 300.0) -> Program:
    return Program.model_validate(
        {
            "name": name,
            "steps": {
                "classify": {
                    "module": "Predict",
                    "signature": "ticket -> category: Literal['billing', 'technical']",
                    "options": {"timeout": timeout},
                }
            },
        }
    )


async def test_a_program_runs_on_an_actor_of_its_own() -> None:
    lm = ScriptedLM([ANSWER])
    async with open_runtime(lm) as rt:
        run = await rt.run(one_step(), ticket="My invoice is wrong")
        assert run.outputs == {"category": "billing"}
        (tree,) = [child for child in rt.tree().children if child.name == "modules"]
        assert [child.name for child in tree.children] == ["p/classify"]
        assert rt.in_flight == ()


async def test_a_crashed_actor_costs_no_second_model_call(
    autojump_clock: trio.testing.MockClock,
) -> None:
    lm = ScriptedLM([ANSWER], delay=2.0)
    async with open_runtime(lm) as rt:
        program = one_step()
        await rt.load(program)

        async def crash() -> None:
            await trio.sleep(1)
            actor = rt.node.registry.whereis("p/classify")
            assert actor is not None
            actor.exit("boom")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(crash)
            run = await rt.run(program, ticket="My invoice is wrong")
        assert run.outputs == {"category": "billing"}
        assert run.steps[0].restarts == 1
        assert len(lm.requests) == 1


async def test_a_step_may_take_as_long_as_its_own_timeout_says(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with open_runtime(ScriptedLM([ANSWER], delay=3_000.0)) as rt:
        run = await rt.run(one_step(timeout=3_600.0), ticket="Take your time.")
    assert run.outputs == {"category": "billing"}


async def test_the_runs_of_one_step_do_not_wait_for_each_other(
    autojump_clock: trio.testing.MockClock,
) -> None:
    began = trio.current_time()
    async with open_runtime(ScriptedLM(lambda _: ANSWER, delay=10.0)) as rt:
        runs = [await rt.submit(one_step(), {"ticket": "x"}) for _ in range(500)]
        for run in runs:
            assert (await rt.result(run)).status == "succeeded"
        assert trio.current_time() - began < 11.0


async def test_more_unfinished_runs_than_may_be_are_refused() -> None:
    async with open_runtime(ScriptedLM([ANSWER], delay=60), max_runs=1) as rt:
        first = await rt.submit(one_step(), {"ticket": "a"})
        with pytest.raises(TooManyRunsError, match="1 runs are unfinished") as caught:
            await rt.submit(one_step(), {"ticket": "b"})
        assert caught.value.limit == 1
        await rt.cancel(first)
        await rt.submit(one_step(), {"ticket": "b"})


async def test_of_large_runs_fewer_are_kept() -> None:
    async with open_runtime(ScriptedLM(lambda _: ANSWER)) as rt:
        runs: list[str] = []
        for number in range(50):
            ticket = f"{number}" + "x" * 2_000_000
            runs.append(await rt.submit(one_step(), {"ticket": ticket}))
            await rt.result(runs[-1])
        kept = [run for run in runs if rt.table.has(run)]
        # 64 MiB, with a ticket of 2 MB in each, and what its events tell of it.
        assert kept == runs[-len(kept) :]
        assert 30 <= len(kept) <= 33
        assert rt.table.counts["succeeded"] == 50


async def test_of_large_events_fewer_are_kept() -> None:
    record = RunRecord("r", one_step(), {})
    for number in range(1_500):
        prompt = [{"role": "user", "text": f"{number}" + "x" * 20_000}]
        record.note("call_finished", step="classify", prompt=prompt)
    seqs = [event.seq for event in record.events]
    assert seqs == list(range(1_501 - len(seqs), 1_501))
    assert 190 <= len(seqs) <= 210
    for _ in range(1_500):
        record.note("step_started")
    assert len(list(record.events)) == 1_000


async def test_outputs_of_a_failed_run_raise_its_error() -> None:
    async with open_runtime(ScriptedLM([OSError("no disk")])) as rt:
        run = await rt.run(one_step(), ticket="x")
        assert run.status == "failed"
        with pytest.raises(
            StepFailedError, match="'classify' failed: OSError: no disk"
        ):
            _ = run.outputs


async def test_versions_of_a_program_live_side_by_side() -> None:
    async with open_runtime(ScriptedLM(lambda _: ANSWER)) as rt:
        await rt.run(one_step(), ticket="x")
        await rt.run(one_step(), ticket="x")
        assert len(rt.programs) == 1
        newer = one_step(timeout=7.0)
        assert (await rt.run(newer, ticket="x")).status == "succeeded"
        assert rt.program("p") == newer
        assert [plan.actors for plan in rt.programs] == ["p", f"p@{newer.digest[:8]}"]


async def test_a_tree_that_gave_up_ends_the_block_with_the_reason(
    autojump_clock: trio.testing.MockClock,
) -> None:
    lm = ScriptedLM(lambda _: ANSWER, delay=60.0)

    async def lose_the_root() -> None:
        async with open_runtime(lm) as rt:
            rt.root.exit("kill")
            await rt.run(one_step(), ticket="x")

    with pytest.raises(RuntimeStoppedError, match="killed"):
        await lose_the_root()
    assert trio.current_time() < 60


async def test_a_thousand_runs_at_once_finish(
    autojump_clock: trio.testing.MockClock,
) -> None:
    lm = ScriptedLM(lambda _: ANSWER, delay=1.0)
    outputs: list[object] = []
    async with open_runtime(lm) as rt:
        program = one_step()

        async def one() -> None:
            outputs.append((await rt.run(program, ticket="x")).outputs["category"])

        async with trio.open_nursery() as nursery:
            for _ in range(1_000):
                nursery.start_soon(one)
    assert outputs == ["billing"] * 1_000


async def test_cancelled_runs_leave_nothing_behind(
    autojump_clock: trio.testing.MockClock,
) -> None:
    lm = ScriptedLM(lambda _: ANSWER, delay=10.0)
    async with open_runtime(lm) as rt:
        program = one_step()
        for timeout in (0.0, 0.5, 5.0):
            with trio.move_on_after(timeout) as scope:
                await rt.run(program, ticket="x")
            assert scope.cancelled_caught
        assert rt.in_flight == ()
        assert (await rt.run(program, ticket="x")).status == "succeeded"
