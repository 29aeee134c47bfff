"""Hosted steps with `options.stream`: real dspy processes, a real server."""

import json
import os
import signal
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

from dspex import OpenAI, Program, open_runtime
from dspex.providers import RetryPolicy
from dspex.providers.lm import Capabilities
from dspex.runtime import ActorRef
from dspex.runtime.bridge import DspyPool
from dspex.runtime.bridge.testing import fields
from dspex.testing import Answer, FailInStream, FakeProvider, open_fake_provider
from dspex.worker.app import Runtime
from tests.integration.bridge_processes import HOSTED
from tests.integration.text_reader import TextReader

TEXT = 'bees "make" honey\nout of nectar, and wax out of honey'
REASONING = "I know bees"


def one_step(module: str = "dspy.ChainOfThought", **more: Any) -> Program:
    options = {"stream": True, **more.pop("options", {})}
    step = {
        "module": module,
        "backend": "python",
        "signature": "question -> answer",
        "options": options,
        **more,
    }
    return Program.model_validate({"name": "p", "steps": {"a": step}})


def said(adapter: str, **values: object) -> str:
    return json.dumps(values) if adapter == "json" else fields(**values, completed="")


@asynccontextmanager
async def opened(
    *plan: Answer | FailInStream, store: Path | None = None, streaming: bool = True
) -> AsyncGenerator[tuple[Runtime, FakeProvider]]:
    async with open_fake_provider(plan) as server:
        lm = OpenAI(
            "gpt-4o-mini",
            api_key="k",
            base_url=server.url,
            retries=RetryPolicy(attempts=1),
            capabilities=Capabilities(streaming=streaming),
        )
        async with lm, open_runtime(lm, store=store, search_path=[HOSTED]) as rt:
            yield rt, server


async def read(rt: Runtime, program: Program) -> tuple[TextReader, Any]:
    run = await rt.submit(program, {"question": "?"})
    reader = TextReader()
    with trio.fail_after(60):
        async for event in rt.events(run):
            reader.read(event)
        return reader, await rt.result(run)


@pytest.mark.parametrize("adapter", ["chat", "json", "xml"])
async def test_fields_of_a_hosted_step_come_while_the_model_writes(
    adapter: str,
) -> None:
    text = said(adapter, reasoning=REASONING, answer=TEXT)
    if adapter == "xml":
        text = f"<reasoning>{REASONING}</reasoning>\n<answer>{TEXT}</answer>"
    async with opened(Answer(text, pace=0.002)) as (rt, server):
        reader, ended = await read(rt, one_step(config={"adapter": adapter}))
    assert ended.outputs == {"reasoning": REASONING, "answer": TEXT}
    assert reader.texts == {
        ("a", None, "reasoning"): REASONING,
        ("a", None, "answer"): TEXT,
    }
    assert reader.attempts == {("a", None): [1]}
    assert reader.pieces > 4
    assert len(server.requests) == 1
    (step,) = ended.steps
    assert step.live == 1
    assert step.usage["output_tokens"] == 5
    assert step.cost_usd > 0


async def test_a_process_killed_while_it_writes_costs_no_call_and_tells_anew() -> None:
    text = said("chat", reasoning=REASONING, answer=TEXT)
    async with opened(Answer(text, pace=0.02)) as (rt, server):
        run = await rt.submit(one_step(config={"adapter": "chat"}), {"question": "?"})
        reader = TextReader()
        with trio.fail_after(60):
            async for event in rt.events(run):
                reader.read(event)
                if event.kind == "delta" and reader.pieces == 3:
                    await kill_all(rt)
        ended = await rt.result(run)
    assert ended.outputs == {"reasoning": REASONING, "answer": TEXT}
    assert ended.steps[0].restarts >= 1  # a spare may have been given it, and died, too
    assert reader.texts == {
        ("a", None, "reasoning"): REASONING,
        ("a", None, "answer"): TEXT,
    }
    assert reader.attempts == {("a", None): [1, 2]}
    assert len(reader.dropped) >= 1
    assert len(server.requests) == 1


async def kill_all(rt: Runtime) -> None:
    pool: ActorRef[DspyPool] | None = rt.node.registry.whereis("dspy")
    assert pool is not None
    for pid in await pool.call(DspyPool.pids):
        os.kill(pid, signal.SIGKILL)


async def test_a_broken_stream_is_the_steps_failure_and_its_retry_begins_anew() -> None:
    text = said("chat", reasoning=REASONING, answer=TEXT)
    plan = (FailInStream(events=4), Answer(text, pace=0.002))
    async with opened(*plan) as (rt, server):
        program = one_step(config={"adapter": "chat"}, options={"retries": 1})
        reader, ended = await read(rt, program)
    assert ended.outputs["answer"] == TEXT
    assert reader.texts["a", None, "answer"] == TEXT
    assert ended.steps[0].live == 1
    assert len(server.requests) == 2


async def test_a_field_that_two_predictors_write_is_told_of_both() -> None:
    draft = said("chat", answer="some honey")
    final = said("chat", answer=TEXT, reason="bees")
    async with opened(Answer(draft, pace=0.002), Answer(final, pace=0.002)) as (rt, _):
        program = one_step("hosted_programs:Twice", config={"adapter": "chat"})
        reader, ended = await read(rt, program)
    assert ended.outputs["answer"] == TEXT
    assert reader.texts == {("a", None, "answer"): TEXT}
    assert reader.attempts == {("a", None): [1, 2]}
    assert reader.dropped == ["some honey"]


async def test_a_function_tells_its_text_when_it_has_returned() -> None:
    async with opened() as (rt, server):
        reader, ended = await read(rt, one_step("hosted_programs:shout"))
    assert ended.outputs == {"answer": "?"}
    assert reader.texts == {("a", None, "answer"): "?"}
    assert server.requests == []


async def test_a_model_that_cannot_stream_is_told_when_it_has_answered() -> None:
    text = said("chat", reasoning=REASONING, answer=TEXT)
    async with opened(Answer(text), streaming=False) as (rt, server):
        reader, _ = await read(rt, one_step(config={"adapter": "chat"}))
    assert reader.texts["a", None, "answer"] == TEXT
    assert "stream" not in server.requests[0].json


async def test_a_hosted_step_with_a_store_keeps_one_call_and_its_result(
    tmp_path: Path,
) -> None:
    text = said("chat", reasoning=REASONING, answer=TEXT)
    store = tmp_path / "runs.db"
    async with opened(Answer(text, pace=0.002), store=store) as (rt, server):
        reader, ended = await read(rt, one_step(config={"adapter": "chat"}))
        kept = sorted(it.kind for it in await rt.journal.effects(ended.id))
    assert kept == ["model", "step"]
    assert reader.texts["a", None, "answer"] == TEXT
    assert len(server.requests) == 1
