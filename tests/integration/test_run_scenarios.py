"""Acceptance scenarios A and B as seen by runs: real servers, a real store."""

import json
import time
from pathlib import Path

import pytest
import trio

from dspex.providers import (
    LM,
    Anthropic,
    Cached,
    Fallback,
    MemoryStore,
    OpenAI,
    RetryPolicy,
)
from dspex.runtime.engine import (
    Program,
    Run,
    Step,
    StepFailedError,
    StepOptions,
    TooManyDispatchesError,
)
from dspex.runtime.journal import RunCancelledError
from dspex.testing import (
    Action,
    Answer,
    Fail,
    FakeProvider,
    Hang,
    ProviderRequest,
    ScriptedLM,
    open_fake_provider,
)
from dspex.worker.app import Runtime
from dspex.worker.open_runtime import open_runtime
from tests.integration.dspex_command import eventually, schema_answers

QUICK = RetryPolicy(attempts=5, first_wait=0.005, longest_wait=0.01)
TWO = Program(
    name="two",
    steps={
        "first": Step(module="Predict", signature="ticket -> summary"),
        "other": Step(module="Predict", signature="ticket -> category"),
    },
)
ONE = Program(
    name="one", steps={"s": Step(module="Predict", signature="ticket -> count: int")}
)


def openai(server: FakeProvider) -> OpenAI:
    return OpenAI("fake", base_url=server.url, api_key="secret-key", retries=QUICK)


def answer(request: ProviderRequest) -> Answer:
    return Answer('{"count": 3, "summary": "s", "category": "c"}')


async def kill(rt: Runtime, name: str) -> None:
    ref = await rt.node.registry.wait_for(name)
    ref.exit("kill")
    await ref.wait_exit()


async def test_a2_a_crash_of_a_steps_actor_costs_its_run_nothing_and_no_other_actor(
    tmp_path: Path,
) -> None:
    lm = ScriptedLM(lambda _: '{"summary": "s", "category": "c"}', delay=0.3)
    async with open_runtime(lm, store=tmp_path / "runs.db") as rt:
        await rt.load(TWO)
        before = rt.node.registry.whereis("two/other")
        run = await rt.submit(TWO, {"ticket": "help"})
        assert await eventually(lambda: len(lm.requests) == 2, seconds=5)
        await kill(rt, "two/first")
        ended = await rt.result(run, timeout=10)
        assert rt.node.registry.whereis("two/other") == before
    assert ended.status == "succeeded"
    assert {step.name: step.restarts for step in ended.steps} == {
        "first": 1,
        "other": 0,
    }
    # The call that was under way belongs to the run: it was not made again.
    assert len(lm.requests) == 2


async def test_a5_a_step_whose_actor_dies_each_time_fails_its_run_and_no_other(
    tmp_path: Path,
) -> None:
    options = StepOptions(max_dispatches=2)
    step = TWO.steps["first"].model_copy(update={"options": options})
    program = Program(name="dying", steps={"first": step})
    lm = ScriptedLM(lambda _: '{"summary": "s", "category": "c"}', delay=0.4)
    async with open_runtime(lm, store=tmp_path / "runs.db") as rt:
        run = await rt.submit(program, {"ticket": "help"})
        other = await rt.submit(TWO, {"ticket": "help"})
        for _ in range(2):
            assert await eventually(
                lambda: any(step.run == run for step in rt.in_flight), seconds=5
            )
            await trio.sleep(0.05)
            await kill(rt, "dying/first")
        ended = await rt.result(run, timeout=10)
        assert (await rt.result(other, timeout=10)).status == "succeeded"
    assert isinstance(ended.error, StepFailedError)
    assert isinstance(ended.error.__cause__, TooManyDispatchesError)


async def test_a8_leaving_the_runtime_ends_its_runs_and_its_connections(
    tmp_path: Path,
) -> None:
    async with open_fake_provider([Hang(), Hang()]) as server:
        async with (
            openai(server) as lm,
            open_runtime(lm, store=tmp_path / "runs.db") as rt,
        ):
            await rt.submit(TWO, {"ticket": "help"})
            assert await eventually(lambda: len(server.requests) == 2, seconds=5)
            root = rt.root
        assert not root.is_alive
        assert await eventually(lambda: server.open_connections == 0, seconds=5)


async def run_with(lm: LM) -> Run:
    async with open_runtime(lm) as rt:
        return await rt.run(ONE, ticket="three things")


async def test_b1_the_same_program_on_two_providers_gives_the_same_types() -> None:
    async with open_fake_provider(answer) as server:
        async with openai(server) as lm:
            first = await run_with(lm)
        async with Anthropic("fake", base_url=server.url, api_key="k") as lm:
            second = await run_with(lm)
    assert first.outputs == second.outputs == {"count": 3}
    assert all("three things" in json.dumps(it.json) for it in server.requests)
    assert [it.path for it in server.requests] == [
        "/v1/chat/completions",
        "/v1/messages",
    ]


async def test_b3_a_busy_and_a_broken_server_cost_attempts_and_no_second_effect(
    tmp_path: Path,
) -> None:
    plan: list[Action] = [
        Fail(429, headers={"retry-after": "0.01"}),
        Fail(500),
        Answer('{"count": 3}'),
    ]
    async with (
        open_fake_provider(plan) as server,
        openai(server) as lm,
        open_runtime(lm, store=tmp_path / "runs.db") as rt,
    ):
        run = await rt.run(ONE, ticket="help")
        effects = await rt.journal.effects(run.id)
    assert run.outputs == {"count": 3}
    assert len(server.requests) == 3
    assert len(effects) == 1


async def test_b3_a_refused_key_fails_the_run_at_once_and_is_told_nowhere(
    tmp_path: Path,
) -> None:
    store = tmp_path / "runs.db"
    async with (
        open_fake_provider([Fail(401)]) as server,
        openai(server) as lm,
        open_runtime(lm, store=store) as rt,
    ):
        run = await rt.run(ONE, ticket="help")
    assert isinstance(run.error, StepFailedError)
    assert len(server.requests) == 1
    assert "secret-key" not in str(run.error)
    assert b"secret-key" not in store.read_bytes()


async def test_b4_cancelling_a_run_closes_its_request_and_frees_its_place(
    tmp_path: Path,
) -> None:
    async with (
        open_fake_provider([Hang()]) as server,
        openai(server) as lm,
        open_runtime(lm, store=tmp_path / "runs.db", max_running=1) as rt,
    ):
        run = await rt.submit(ONE, {"ticket": "help"})
        assert await eventually(lambda: len(server.requests) == 1, seconds=5)
        server.plan(answer)
        await rt.cancel(run)
        with pytest.raises(RunCancelledError):
            await rt.result(run, timeout=5)
        assert await eventually(lambda: server.disconnects == 1, seconds=5)
        assert (await rt.run(ONE, ticket="next")).outputs == {"count": 3}


async def test_b6_the_fallback_is_asked_the_same_in_a_run() -> None:
    async with (
        open_fake_provider(lambda _: Fail(500)) as broken,
        open_fake_provider(schema_answers()) as good,
        openai(broken) as first,
        openai(good) as second,
        open_runtime(Fallback([first, second])) as rt,
    ):
        run = await rt.run(TWO, ticket="help")
    assert run.status == "succeeded"
    asked = [json.dumps(it.json["messages"]) for it in broken.requests]
    assert {json.dumps(it.json["messages"]) for it in good.requests} <= set(asked)


async def test_b8_identical_runs_at_once_make_one_request() -> None:
    runs: list[Run] = []
    async with (
        open_fake_provider(lambda _: Answer('{"count": 3}', delay=0.1)) as server,
        openai(server) as lm,
        open_runtime(Cached(lm, MemoryStore())) as rt,
    ):

        async def ask() -> None:
            runs.append(await rt.run(ONE, ticket="the same"))

        async with trio.open_nursery() as nursery:
            for _ in range(10):
                nursery.start_soon(ask)
    assert [run.outputs for run in runs] == [{"count": 3}] * 10
    assert len(server.requests) == 1


async def test_a_wall_clock_that_jumps_costs_no_run_its_lease(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, jumps = time.time, iter([0, 86_400, -86_400] * 10_000)
    monkeypatch.setattr(time, "time", lambda: real() + next(jumps))
    lm = ScriptedLM(lambda _: '{"summary": "s", "category": "c"}', delay=0.5)
    store = tmp_path / "runs.db"
    # Two workers that watch each other, with a lease that passes a few times.
    async with (
        open_runtime(lm, store=store, lease_seconds=0.2, max_running=2) as one,
        open_runtime(lm, store=store, lease_seconds=0.2, max_running=2) as two,
    ):
        ids = [await one.submit(TWO, {"ticket": f"t{n}"}) for n in range(4)]
        ended = [await two.result(run, timeout=20) for run in ids]
        rows = [await one.journal.run(run) for run in ids]
    assert [run.status for run in ended] == ["succeeded"] * 4
    assert [row.epoch for row in rows] == [1] * 4
    assert len(lm.requests) == 8
