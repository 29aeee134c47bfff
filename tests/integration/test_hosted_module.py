"""Hosted modules as native ones: the same model, usage, pieces, tools and values."""

import json
from collections.abc import AsyncIterator

import pytest
import trio

from dspex.modules import FieldDelta, History, Image, Prediction, tool
from dspex.modules.errors import LMNotConfiguredError, MissingInputError
from dspex.modules.hosted_module import Hosted
from dspex.modules.hosted_values import for_dspy
from dspex.modules.optimizers import Example
from dspex.modules.tools.calls import ToolCalls
from dspex.providers import OpenAI, RetryPolicy
from dspex.providers.lm import Capabilities
from dspex.runtime import ActorRef, bridge, open_node
from dspex.runtime.bridge import DspyPool, PoolSettings, RemoteError
from dspex.runtime.bridge.testing import fields
from dspex.testing import Answer, FakeProvider, ScriptedLM, open_fake_provider

TEXT = "bees make honey out of nectar, and wax out of honey"
ANSWER = fields(reasoning="I know bees", answer=TEXT, completed="")
MODULE = ("dspy.ChainOfThought", "question -> answer")


@pytest.fixture
async def pool() -> AsyncIterator[ActorRef[DspyPool]]:
    async with open_node() as node:
        yield await node.start(DspyPool(PoolSettings(spares=0)))


@pytest.fixture
async def server() -> AsyncIterator[FakeProvider]:
    async with open_fake_provider() as server:
        yield server


def client(server: FakeProvider, capabilities: Capabilities) -> OpenAI:
    return OpenAI(
        "m",
        api_key="k",
        base_url=server.url,
        retries=RetryPolicy(attempts=1),
        capabilities=capabilities,
    )


async def pieces_of(
    module: Hosted, lm: OpenAI | ScriptedLM
) -> list[FieldDelta | Prediction]:
    async with module.stream(lm=lm, question="What do bees make?") as pieces:
        return [piece async for piece in pieces]


async def test_a_hosted_module_is_a_module(pool: ActorRef[DspyPool]) -> None:
    lm = ScriptedLM([ANSWER], capabilities=Capabilities())
    prediction = await Hosted(*MODULE, adapter="chat", pool=pool).run(
        {"question": "?"}, lm=lm
    )
    assert prediction == Prediction(reasoning="I know bees", answer=TEXT)
    assert prediction.usage.total_tokens > 0
    with pytest.raises(LMNotConfiguredError, match=r"Hosted\('dspy\.ChainOfThought'"):
        await Hosted(*MODULE, adapter="chat", pool=pool)(question="?")
    with pytest.raises(MissingInputError):
        await Hosted(*MODULE, adapter="chat", pool=pool, lm=lm)()


async def test_fields_come_while_the_model_writes_and_the_prediction_last(
    pool: ActorRef[DspyPool], server: FakeProvider
) -> None:
    server.plan([Answer(ANSWER)])
    async with client(server, Capabilities(streaming=True)) as lm:
        *deltas, prediction = await pieces_of(
            Hosted(*MODULE, adapter="chat", pool=pool), lm
        )
    assert prediction == Prediction(reasoning="I know bees", answer=TEXT)
    assert isinstance(prediction, Prediction)
    assert prediction.usage.total_tokens > 0
    texts = [d.text for d in deltas if isinstance(d, FieldDelta) if d.field == "answer"]
    assert "".join(texts).strip() == TEXT
    assert len(texts) > 3
    assert len(server.requests) == 1


async def test_a_model_without_streams_gives_the_same_at_its_end(
    pool: ActorRef[DspyPool],
) -> None:
    lm = ScriptedLM([ANSWER], capabilities=Capabilities())
    *deltas, prediction = await pieces_of(
        Hosted(*MODULE, adapter="chat", pool=pool), lm
    )
    assert prediction == Prediction(reasoning="I know bees", answer=TEXT)
    texts = [d.text for d in deltas if isinstance(d, FieldDelta) if d.field == "answer"]
    assert "".join(texts).strip() == TEXT


async def test_what_a_streamed_module_raises_is_raised_where_it_is_read(
    pool: ActorRef[DspyPool],
) -> None:
    lm = ScriptedLM([ANSWER], capabilities=Capabilities())
    module = Hosted("dspy.Nope", "question -> answer", pool=pool)
    with pytest.raises(RemoteError, match=r"there is no 'Nope'"):
        await pieces_of(module, lm)


async def test_leaving_the_block_ends_the_hosted_run_and_its_model_call(
    pool: ActorRef[DspyPool], server: FakeProvider
) -> None:
    long = fields(reasoning="so", answer="honey " * 200)
    server.plan([Answer(long, pace=0.02)])
    async with client(server, Capabilities(streaming=True)) as lm:
        with trio.fail_after(10):
            module = Hosted(*MODULE, adapter="chat", pool=pool, lm=lm)
            async with module.stream(question="?") as pieces:
                assert isinstance(await anext(pieces), FieldDelta)
            while not server.disconnects:
                await trio.sleep(0.01)
            while (await pool.call(DspyPool.statistics)).busy:
                await trio.sleep(0.01)
    assert (await pool.call(DspyPool.statistics)).cancelled == 1


async def test_a_hosted_react_calls_a_native_tool(pool: ActorRef[DspyPool]) -> None:
    @tool
    async def add(a: int, b: int) -> int:
        """Add two numbers."""
        await trio.lowlevel.checkpoint()
        return a + b

    def step(name: str, args: str) -> str:
        return fields(next_thought="hm", next_tool_name=name, next_tool_args=args)

    lm = ScriptedLM(
        [
            step("add", '{"a": 2, "b": 3}'),
            step("finish", "{}"),
            fields(reasoning="so", answer=5),
        ],
        capabilities=Capabilities(),
    )
    module = Hosted(
        "dspy.ReAct", "question -> answer: int", adapter="chat", pool=pool, tools=[add]
    )
    prediction = await module.run({"question": "2 + 3?"}, lm=lm)
    assert prediction.answer == 5
    assert prediction.trajectory["observation_0"] == 5


def test_our_values_become_dspys() -> None:
    @tool
    async def look(key: str) -> str:
        """Look a key up."""
        await trio.lowlevel.checkpoint()
        return key

    image = Image(data="iVBORw0KGgo=", media_type="image/png")
    call = {"name": "look", "args": {"key": "k"}}
    values: dict[str, object] = {
        "image": image,
        "url": Image(url="https://example.org/a.png"),
        "history": History(messages=[{"picture": image}]),
        "row": Example(question="?", answer="!").with_inputs("question"),
        "prediction": Prediction(answer=[image]),
        "wanted": ToolCalls.model_validate([call]),
        "tool": look,
        "plain": {"a": [1, "b"]},
    }
    png = bridge.Image("data:image/png;base64,iVBORw0KGgo=")
    assert for_dspy(values) == {
        "image": png,
        "url": bridge.Image("https://example.org/a.png"),
        "history": bridge.History(({"picture": png},)),
        "row": bridge.Example({"question": "?", "answer": "!"}, ("question",)),
        "prediction": {"answer": [png]},
        "wanted": bridge.ToolCalls((call,)),
        "tool": bridge.HostedTool("look", "Look a key up.", look.schema),
        "plain": {"a": [1, "b"]},
    }


async def test_text_is_told_without_the_quotes_and_escapes_of_json(
    pool: ActorRef[DspyPool],
) -> None:
    answer = {"reasoning": 'it is "so"\nand so', "answer": 'say "hi"\\'}
    lm = ScriptedLM([json.dumps(answer)])
    module = Hosted(*MODULE, adapter="json", pool=pool)
    *deltas, prediction = await pieces_of(module, lm)
    told = dict.fromkeys(answer, "")
    for delta in deltas:
        assert isinstance(delta, FieldDelta)
        told[delta.field] += delta.text
    assert told == answer
    assert prediction == Prediction(**answer)
