"""The modules against a provider over real HTTP, by the ids of their scenarios."""

import json
import time
from collections.abc import AsyncIterator
from typing import Literal

import pytest
import trio

from dspex.modules import (
    AdapterParseError,
    AssertionFailedError,
    ChainOfThought,
    InputField,
    Module,
    ModuleActor,
    OutputField,
    Predict,
    Prediction,
    ReAct,
    Signature,
    Tool,
    calculator,
    ensure,
    suggest,
)
from dspex.providers import Anthropic, OpenAI, RetryPolicy, ToolCall, Usage
from dspex.providers.cache import Cached
from dspex.providers.cache_stores import MemoryStore
from dspex.providers.lm import LM, Capabilities
from dspex.runtime import open_node
from dspex.testing import Answer, FakeProvider, ProviderRequest, open_fake_provider

ONCE = RetryPolicy(attempts=1)


@pytest.fixture
async def server() -> AsyncIterator[FakeProvider]:
    async with open_fake_provider() as server:
        yield server


def openai(server: FakeProvider, capabilities: Capabilities | None = None) -> OpenAI:
    return OpenAI(
        "gpt-4o-mini",
        api_key="sk-test",
        base_url=server.url,
        retries=ONCE,
        capabilities=capabilities or Capabilities(),
    )


class Sort(Signature):
    """Sort the ticket."""

    ticket: str = InputField(desc="what the customer wrote")
    category: Literal["bug", "question"] = OutputField()
    urgency: int = OutputField(ge=0, le=10)


DEMOS = [
    {"ticket": "first demo", "category": "question", "urgency": 1},
    {"ticket": "second demo", "category": "bug", "urgency": 9},
]


@pytest.mark.parametrize("provider", ["openai", "anthropic"])
async def test_b1_forward_asks_with_everything_and_gives_types(
    server: FakeProvider, provider: str
) -> None:
    server.plan([Answer('{"category": "bug", "urgency": 7}', usage=Usage(50, 9))])
    predict = Predict(Sort, demos=DEMOS)

    async def run(lm: LM) -> Prediction:
        async with open_node() as node:
            ref = await node.start(ModuleActor(predict, lm))
            return await ref.call(ModuleActor.forward, {"ticket": "It burns!"})

    if provider == "openai":
        async with openai(server) as lm:
            found = await run(lm)
    else:
        url = server.url
        async with Anthropic("m", api_key="k", base_url=url, retries=ONCE) as other:
            found = await run(other)
    body = server.requests[0].body.decode()
    for part in ("Sort the ticket.", "first demo", "second demo", "It burns!"):
        assert part in body
    assert "what the customer wrote" in body
    assert (found.category, found.urgency) == ("bug", 7)
    assert found.usage == Usage(50, 9)
    assert len(found.trace_id or "") == 32


async def test_b2_tool_schema_has_the_outputs_and_fences_parse(
    server: FakeProvider,
) -> None:
    multiline = "línea 1\n\nlínea 2 北京"
    arguments = json.dumps({"summary": multiline, "score": "0.5"})
    server.plan(
        [
            Answer("", (ToolCall("c1", "answer", arguments),)),
            Answer(f"```json\n{arguments}\n```"),
        ]
    )
    signature = "text -> summary, score: float"
    async with openai(server, Capabilities(json_schema=False)) as lm:
        found = await Predict(signature, lm=lm)(text="t")
        assert dict(found.outputs) == {"summary": multiline, "score": 0.5}
        fenced = await Predict(signature, lm=lm, adapter="json")(text="t")
        assert fenced == found
    (tool,) = server.requests[0].json["tools"]
    assert list(tool["function"]["parameters"]["properties"]) == ["summary", "score"]


async def test_b2_bad_field_has_one_corrective_attempt(server: FakeProvider) -> None:
    bad, good = '{"summary": "s"}', '{"summary": "s", "score": 1}'
    server.plan([Answer(bad), Answer(good), Answer(bad), Answer(bad)])
    async with openai(server) as lm:
        predict = Predict("text -> summary, score: float", lm=lm)
        assert (await predict(text="t")).score == 1.0
        assert len(server.requests) == 2
        assert "score" in server.requests[1].json["messages"][-1]["content"]
        with pytest.raises(AdapterParseError) as caught:
            await predict(text="t")
        assert caught.value.field == "score"
        assert len(caught.value.attempts) == 2


async def test_b7_fifty_forwards_overlap(server: FakeProvider) -> None:
    server.plan(lambda _: Answer('{"answer": "x"}', delay=0.2))
    async with openai(server) as lm, open_node() as node:
        ref = await node.start(ModuleActor(Predict("question -> answer"), lm))
        started = trio.current_time()

        async def run() -> None:
            await ref.call(ModuleActor.forward, {"question": "?"}, timeout=30)

        async with trio.open_nursery() as nursery:
            for _ in range(50):
                nursery.start_soon(run)
        assert trio.current_time() - started < 1.0


async def test_b7_batch_gives_results_and_errors_in_order(
    server: FakeProvider,
) -> None:
    def plan(request: ProviderRequest) -> Answer:
        text = request.json["messages"][-1]["content"]
        number = text.split("\n")[1]
        return Answer("no" if number in ("3", "50", "99") else f'{{"a": {number}}}')

    server.plan(plan)
    async with openai(server) as lm:
        predict = Predict("q -> a: int", lm=lm, repairs=0)
        found = await predict.batch([{"q": str(number)} for number in range(100)])
    bad = [i for i, item in enumerate(found) if isinstance(item, Exception)]
    assert bad == [3, 50, 99]
    assert all(isinstance(found[i], AdapterParseError) for i in bad)
    good = [item.a for item in found if isinstance(item, Prediction)]
    assert good == [n for n in range(100) if n not in (3, 50, 99)]


async def test_b8_equal_calls_make_one_request(server: FakeProvider) -> None:
    server.plan(lambda _: Answer('{"answer": "x"}', delay=0.05))
    async with openai(server) as client:
        lm = Cached(client, MemoryStore())
        predict = Predict("question -> answer", lm=lm)
        async with trio.open_nursery() as nursery:
            for _ in range(10):
                nursery.start_soon(predict.run, {"question": "?"})
        assert len(server.requests) == 1
        await predict(question="?")
        assert len(server.requests) == 1
        demos = [{"question": "q", "answer": "a"}]
        await Predict("question -> answer", lm=lm, demos=demos)(question="?")
        await Predict("question -> answer", lm=lm, temperature=0.5)(question="?")
        assert len(server.requests) == 3


async def test_d1_reasoning_and_answer_in_one_request(server: FakeProvider) -> None:
    server.plan([Answer('{"reasoning": "First, a. Then, b.", "answer": 12}')])
    async with openai(server) as lm:
        found = await ChainOfThought("q -> answer: int", lm=lm)(q="15% of 80?")
    assert (found.answer, found.steps) == (12, ("First, a.", "Then, b."))
    (request,) = server.requests
    schema = request.json["response_format"]["json_schema"]["schema"]
    assert list(schema["properties"]) == ["reasoning", "answer"]


@pytest.mark.parametrize(("expression", "value"), [("25*4", 100), ("sqrt(144)", 12)])
async def test_d2_agent_solves_by_the_calculator(
    server: FakeProvider, expression: str, value: int
) -> None:
    arguments = json.dumps({"expression": expression})
    server.plan(
        [
            Answer("I compute.", (ToolCall("c1", "calculator", arguments),)),
            Answer("", (ToolCall("c2", "finish", json.dumps({"answer": value})),)),
        ]
    )
    async with openai(server) as lm:
        agent = ReAct("question -> answer: int", [calculator], lm=lm)
        found = await agent(question=f"{expression}?")
    assert found.success
    assert found.answer == value
    assert [step.tool for step in found.steps] == ["calculator", "finish"]
    assert found.steps[0].observation == value
    told = server.requests[1].json["messages"][-1]
    assert (told["role"], told["tool_call_id"]) == ("tool", "c1")
    assert float(told["content"]) == value


def sleep_long() -> str:
    """Sleep."""
    time.sleep(1.0)
    return "late"


def stumble() -> str:
    """Fail."""
    raise ValueError("no such street")


async def test_d3_what_goes_wrong_is_an_observation_over_http(
    server: FakeProvider,
) -> None:
    wrong = [
        ("nothing", "{}", "is unknown"),
        ("calculator", '{"term": "1"}', "wrong arguments"),
        ("calculator", "{not json", "the call of calculator"),
        ("stumble", "{}", "ValueError: no such street"),
        ("sleep_long", "{}", "took longer than 0.05s"),
    ]
    server.plan(
        [
            *(Answer("", (ToolCall("c", name, given),)) for name, given, _ in wrong),
            Answer("", (ToolCall("c", "finish", '{"answer": 4}'),)),
        ]
    )
    slow = Tool(sleep_long, timeout=0.05)
    async with openai(server) as lm:
        found = await ReAct(
            "question -> answer: int", [calculator, stumble, slow], lm=lm
        )(question="2+2?")
    assert (found.success, found.answer) == (True, 4)
    told = [request.json["messages"][-1]["content"] for request in server.requests[1:]]
    for observation, (_, _, problem) in zip(told, wrong, strict=True):
        assert problem in observation
        assert "\n" not in observation


async def test_d3_fail_fast_stops_at_the_first_failure_over_http(
    server: FakeProvider,
) -> None:
    server.plan(
        [
            Answer("", (ToolCall("c", "stumble", "{}"),)),
            Answer('{"reasoning": "r", "answer": 0}'),
        ]
    )
    async with openai(server) as lm:
        agent = ReAct("question -> answer: int", [stumble], lm=lm, fail_fast=True)
        found = await agent(question="2+2?")
    assert (found.success, found.reason) == (False, "tool_failed")
    assert len(server.requests) == 2


async def test_d4_max_iterations_gives_the_partial_trajectory_over_http(
    server: FakeProvider,
) -> None:
    server.plan(
        [
            *(
                Answer("", (ToolCall("c", "calculator", f'{{"expression": "{n}"}}'),))
                for n in range(3)
            ),
            Answer('{"reasoning": "r", "answer": 2}'),
        ]
    )
    async with openai(server) as lm:
        agent = ReAct("question -> answer: int", [calculator], lm=lm, max_iterations=3)
        found = await agent(question="And so on?")
    assert (found.success, found.reason) == (False, "max_iterations")
    assert [step.observation for step in found.steps] == [0, 1, 2]
    assert found.trajectory["observation_2"] == 2
    # Three turns, and one call to answer from what was found.
    assert len(server.requests) == 4


class Short(Module):
    def __init__(self) -> None:
        self.draft = Predict("question -> draft")
        self.answer = Predict("draft -> answer")

    async def forward(self, question: str) -> Prediction:
        draft = (await self.draft(question=question)).draft
        found = await self.answer(draft=draft)
        ensure(len(found.answer) <= 5, "At most 5 characters.", target=self.answer)
        return found


async def test_e1_ensure_asks_again_over_http(server: FakeProvider) -> None:
    server.plan(
        [
            Answer('{"draft": "d"}'),
            Answer('{"answer": "much too long"}'),
            Answer('{"answer": "still long"}'),
            Answer('{"answer": "short"}'),
        ]
    )
    async with openai(server) as lm:
        found = await Short().run({"question": "?"}, lm=lm)
    assert found.answer == "short"
    assert len(server.requests) == 4
    last = server.requests[3].body.decode()
    for part in ("much too long", "still long", "At most 5 characters."):
        assert part in last
    drafts = [r for r in server.requests if '"draft"' in json.dumps(
        r.json["response_format"])]  # fmt: skip
    assert len(drafts) == 1


async def test_e2_ensure_gives_up_over_http(server: FakeProvider) -> None:
    server.plan(lambda _: Answer('{"draft": "d", "answer": "never short"}'))
    async with openai(server) as lm:
        with pytest.raises(AssertionFailedError, match="At most 5") as caught:
            await Short().run({"question": "?"}, lm=lm)
    assert len(caught.value.attempts) == 3
    assert len(server.requests) == 4


class Polite(Module):
    def __init__(self) -> None:
        self.answer = Predict("question -> answer")

    async def forward(self, question: str) -> Prediction:
        found = await self.answer(question=question)
        suggest("please" in found.answer, "Say please.", max_retries=1)
        return found


async def test_e2_suggest_goes_on_over_http(server: FakeProvider) -> None:
    server.plan([Answer('{"answer": "Go."}'), Answer('{"answer": "Go away."}')])
    async with openai(server) as lm:
        found = await Polite().run({"question": "?"}, lm=lm)
    assert (found.answer, found.suggestions) == ("Go away.", ("Say please.",))
    told = [message["content"] for message in server.requests[1].json["messages"]]
    assert '{"answer": "Go."}' in told
    assert "Say please." in told[-1]
