"""Steps with `options.stream`: what those who follow a run are told, and what it costs.

The model is a real server on loopback that answers in pieces.
"""

import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

from dspex import OpenAI, Program, open_runtime
from dspex.providers import Budget, Budgeted, RetryPolicy
from dspex.providers.lm import Capabilities
from dspex.testing import Answer, FailInStream, FakeProvider, open_fake_provider
from dspex.worker.app import Runtime
from dspex.worker.run_record import RunEvent
from tests.integration.text_reader import TextReader

TEXT = "bees make honey out of nectar, and wax out of honey"
ANSWER = json.dumps({"answer": TEXT})


def one_step(module: str = "Predict", **more: Any) -> Program:
    options = {"stream": True, **more.pop("options", {})}
    step = {"module": module, "signature": "q -> answer", "options": options, **more}
    return Program.model_validate({"name": "p", "steps": {"a": step}})


def client(server: FakeProvider, *, streaming: bool = True) -> OpenAI:
    return OpenAI(
        "gpt-4o-mini",
        api_key="k",
        base_url=server.url,
        retries=RetryPolicy(attempts=1),
        capabilities=Capabilities(streaming=streaming),
    )


@asynccontextmanager
async def opened(
    *plan: Answer | FailInStream, store: Path | None = None, streaming: bool = True
) -> AsyncGenerator[tuple[Runtime, FakeProvider]]:
    async with (
        open_fake_provider(plan) as server,
        client(server, streaming=streaming) as lm,
        open_runtime(lm, store=store) as rt,
    ):
        yield rt, server


async def followed(rt: Runtime, run: str) -> list[RunEvent]:
    with trio.fail_after(20):
        return [event async for event in rt.events(run)]


def kinds(events: list[RunEvent]) -> list[str]:
    return [event.kind for event in events]


async def test_text_comes_while_the_model_writes_it() -> None:
    async with opened(Answer(ANSWER, pace=0.01)) as (rt, server):
        run = await rt.submit(one_step(), {"q": "?"})
        reader = TextReader()
        unfinished = 0
        async for event in rt.events(run):
            reader.read(event)
            unfinished += event.kind == "delta" and server.open_connections
        assert reader.texts == {("a", None, "answer"): TEXT}
        assert (await rt.result(run)).outputs == {"answer": TEXT}
    assert unfinished > 3
    assert len(server.requests) == 1
    assert server.requests[0].json["stream"] is True


async def test_a_step_without_the_option_asks_for_no_stream() -> None:
    async with opened(Answer(ANSWER)) as (rt, server):
        program = one_step(options={"stream": False})
        run = await rt.submit(program, {"q": "?"})
        assert "delta" not in kinds(await followed(rt, run))
    assert "stream" not in server.requests[0].json


async def test_text_has_no_number_of_its_own_and_comes_before_the_end_of_its_step() -> (
    None
):
    async with opened(Answer(ANSWER, pace=0.01)) as (rt, _):
        events = await followed(rt, await rt.submit(one_step(), {"q": "?"}))
    kept = [event for event in events if event.kind != "delta"]
    assert [event.seq for event in kept] == [1, 2, 3, 4, 5, 6]
    deltas = [event for event in events if event.kind == "delta"]
    assert {event.seq for event in deltas} == {3}
    assert kinds(events)[:4] == ["accepted", "started", "step_started", "delta"]
    assert kinds(events)[-3:] == ["call_finished", "step_finished", "finished"]


async def test_who_comes_late_is_told_the_whole_text_at_once() -> None:
    async with opened(Answer(ANSWER, pace=0.005)) as (rt, _):
        run = await rt.submit(one_step(), {"q": "?"})
        await rt.result(run)
        (delta,) = (it for it in await followed(rt, run) if it.kind == "delta")
        assert delta.data["text"] == TEXT
        assert "delta" not in kinds(await rt.next_events(run))


async def test_a_broken_stream_fails_its_attempt_and_the_next_begins_anew() -> None:
    program = one_step(options={"retries": 1}, config={"adapter": "chat"})
    chat = f"[[ ## answer ## ]]\n{TEXT}\n\n[[ ## completed ## ]]"
    async with opened(FailInStream(events=4), Answer(chat)) as (rt, server):
        run = await rt.submit(program, {"q": "?"})
        reader = TextReader()
        for event in await followed(rt, run):
            reader.read(event)
        ended = await rt.result(run)
        assert ended.outputs == {"answer": TEXT}
        assert ended.steps[0].live == 1
    assert reader.texts == {("a", None, "answer"): TEXT}
    assert len(server.requests) == 2


async def test_a_repaired_answer_begins_anew() -> None:
    program = Program.model_validate(
        {
            "name": "p",
            "steps": {
                "a": {
                    "module": "Predict",
                    "signature": "q -> answer, n: int",
                    "options": {"stream": True},
                }
            },
        }
    )
    wrong = json.dumps({"answer": "something else", "n": "many"})
    right = json.dumps({"answer": TEXT, "n": 2})
    plan = (Answer(wrong, pace=0.005), Answer(right, pace=0.005))
    async with opened(*plan) as (rt, server):
        reader = TextReader()
        for event in await followed(rt, await rt.submit(program, {"q": "?"})):
            reader.read(event)
    assert reader.texts == {("a", None, "answer"): TEXT}
    assert reader.attempts == {("a", None): [1, 2]}
    assert reader.dropped == ["something else"]
    assert len(server.requests) == 2


async def test_the_text_goes_on_when_the_actor_of_its_step_dies() -> None:
    async with opened(Answer(ANSWER, pace=0.02)) as (rt, server):
        run = await rt.submit(one_step(), {"q": "?"})
        reader = TextReader()
        async for event in rt.events(run):
            if event.kind == "delta" and not reader.texts:
                actor = rt.node.registry.whereis("p/a")
                assert actor is not None
                actor.exit("boom")
            reader.read(event)
        ended = await rt.result(run)
    assert ended.outputs == {"answer": TEXT}
    assert ended.steps[0].restarts == 1
    assert reader.texts == {("a", None, "answer"): TEXT}
    assert reader.attempts == {("a", None): [1]}
    assert len(server.requests) == 1


async def test_a_reasoning_is_told_before_its_answer() -> None:
    text = json.dumps({"reasoning": "I know bees", "answer": TEXT})
    async with opened(Answer(text, pace=0.005)) as (rt, _):
        program = one_step("ChainOfThought")
        reader = TextReader()
        for event in await followed(rt, await rt.submit(program, {"q": "?"})):
            reader.read(event)
    assert list(reader.texts.items()) == [
        (("a", None, "reasoning"), "I know bees"),
        (("a", None, "answer"), TEXT),
    ]


async def test_each_item_of_a_map_has_a_text_of_its_own() -> None:
    answers = [
        Answer(json.dumps({"answer": f"{TEXT} {n}"}), pace=0.005) for n in (1, 2)
    ]
    async with opened(*answers) as (rt, _):
        program = one_step(map={"q": "inputs.questions"})
        run = await rt.submit(program, {"questions": ["a", "b"]})
        reader = TextReader()
        for event in await followed(rt, run):
            reader.read(event)
        given = (await rt.result(run)).outputs["answer"]
    assert reader.texts == {
        ("a", 0, "answer"): given[0],
        ("a", 1, "answer"): given[1],
    }


@pytest.mark.parametrize("config", [{"adapter": "xml"}, {"n": 2}])
async def test_an_answer_that_cannot_be_split_is_told_when_it_is_whole(
    config: dict[str, Any],
) -> None:
    text = f"<answer>{TEXT}</answer>" if "adapter" in config else ANSWER
    async with opened(Answer(text), Answer(text)) as (rt, _):
        program = one_step(config=config)
        events = await followed(rt, await rt.submit(program, {"q": "?"}))
    (delta,) = (it for it in events if it.kind == "delta")
    assert delta.data["text"] == TEXT


async def test_a_model_that_cannot_stream_is_told_when_it_has_answered() -> None:
    async with opened(Answer(ANSWER), streaming=False) as (rt, server):
        events = await followed(rt, await rt.submit(one_step(), {"q": "?"}))
    (delta,) = (it for it in events if it.kind == "delta")
    assert delta.data["text"] == TEXT
    assert "stream" not in server.requests[0].json


@pytest.mark.parametrize("stream", [False, True])
async def test_a_streamed_call_is_kept_counted_and_paid_as_any_other(
    tmp_path: Path, stream: bool
) -> None:
    budget = Budget(requests=1)
    async with open_fake_provider([Answer(ANSWER)]) as server, client(server) as lm:
        budgeted = Budgeted(lm, budget)
        async with open_runtime(budgeted, store=tmp_path / "runs.db") as rt:
            run = await rt.submit(one_step(options={"stream": stream}), {"q": "?"})
            ended = await rt.result(run)
            (effect,) = await rt.journal.effects(run)
            (step,) = ended.steps
            stored = [it.kind for it in await rt.journal.events(run)]
    assert (step.live, step.journaled) == (1, 0)
    assert step.usage == {**step.usage, "input_tokens": 10, "output_tokens": 5}
    assert step.cost_usd == pytest.approx(budget.cost)
    assert budget.cost > 0
    assert (budget.requests, budget.usage.total_tokens) == (1, 15)
    assert effect.kind == "model"
    assert "delta" not in stored


async def test_an_answer_of_the_journal_is_told_at_once(tmp_path: Path) -> None:
    store = tmp_path / "runs.db"
    program = Program.model_validate(
        {
            "name": "p",
            "steps": {
                "a": {
                    "module": "Predict",
                    "signature": "q -> answer",
                    "options": {"stream": True},
                },
                "b": {"module": "Predict", "signature": "answer -> reply"},
            },
        }
    )
    slow = Answer(json.dumps({"reply": "ok"}), delay=60)
    async with opened(Answer(ANSWER), slow, store=store) as (rt, server):
        run = await rt.submit(program, {"q": "?"})
        with trio.fail_after(10):
            while len(server.requests) < 2:
                await trio.sleep(0.01)
    async with opened(Answer(json.dumps({"reply": "ok"})), store=store) as (rt, server):
        with trio.fail_after(10):
            while not rt.table.has(run):
                await trio.sleep(0.01)
        events = await followed(rt, run)
        assert (await rt.result(run)).outputs["reply"] == "ok"
    told = [it.data["text"] for it in events if it.kind == "delta"]
    assert told == [TEXT]
    assert len(server.requests) == 1


async def test_without_keep_text_what_was_written_is_forgotten_with_the_run() -> None:
    async with (
        open_fake_provider([Answer(ANSWER, pace=0.01)]) as server,
        client(server) as lm,
        open_runtime(lm, keep_text=False) as rt,
    ):
        run = await rt.submit(one_step(), {"q": "?"})
        reader = TextReader()
        for event in await followed(rt, run):
            reader.read(event)
        assert reader.texts == {("a", None, "answer"): TEXT}
        assert "delta" not in kinds(await followed(rt, run))
