import json
import time
from collections.abc import AsyncIterator
from contextlib import aclosing

import pytest
import trio

from dspex.modules import FieldDelta, Predict, Prediction, Signature
from dspex.modules.streaming import FieldSplitter, JSONSplitter, MarkerSplitter
from dspex.providers import OpenAI, RetryPolicy
from dspex.providers.lm import Capabilities
from dspex.testing import Answer, FakeProvider, ScriptedLM, open_fake_provider

TWO = Signature("q -> reasoning, answer, n: int")


def joined(deltas: list[FieldDelta]) -> dict[str, str]:
    found: dict[str, str] = {}
    for delta in deltas:
        found[delta.field] = found.get(delta.field, "") + delta.text
    return found


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
def test_markers_are_split_at_any_piece(size: int) -> None:
    text = (
        "Sure.\n[[ ## reasoning ## ]]\nline [one]\n\nline [[two]]\n\n"
        "[[ ## answer ## ]] é北🙂\n\n[[ ## completed ## ]]\n"
    )
    splitter = MarkerSplitter(TWO)
    deltas = [
        delta
        for start in range(0, len(text), size)
        for delta in splitter.feed(text[start : start + size])
    ] + splitter.finish()
    assert joined(deltas) == {
        "reasoning": "line [one]\n\nline [[two]]",
        "answer": "é北🙂",
    }


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
@pytest.mark.parametrize("ascii_only", [True, False])
def test_json_strings_are_split_at_any_piece(size: int, ascii_only: bool) -> None:
    value = {
        "reasoning": 'a "quoted"\n\\ tab\t {x} [y]',
        "n": 5,
        "other": {"answer": "not this"},
        "answer": "é北🙂",
    }
    text = json.dumps(value, ensure_ascii=ascii_only)
    splitter = JSONSplitter(TWO.output_fields)
    deltas = [
        delta
        for start in range(0, len(text), size)
        for delta in splitter.feed(text[start : start + size])
    ] + splitter.finish()
    assert joined(deltas) == {"reasoning": value["reasoning"], "answer": "é北🙂"}


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


STREAMS = Capabilities(streaming=True)


def test_brackets_that_begin_no_marker_are_told_at_once() -> None:
    splitter = MarkerSplitter(Signature("q -> answer"))
    splitter.feed("[[ ## answer ## ]]\n")
    told = [splitter.feed(piece) for piece in ("see [[Bees]]", " and [[ #", "1 ]] too")]
    assert [it.text for found in told for it in found] == [
        "see [[Bees]]",
        " and ",
        "[[ #1 ]] too",
    ]


@pytest.mark.parametrize(
    ("splitter", "begin", "piece"),
    [
        (MarkerSplitter(Signature("q -> answer")), "[[ ## answer ## ]]\n", "\n"),
        (MarkerSplitter(Signature("q -> answer")), "[[ ## answer ## ]]\n[[", "a"),
        (JSONSplitter({"answer"}), '{"answer": ["', "a"),
    ],
)
def test_a_long_text_costs_no_more_than_its_length(
    splitter: FieldSplitter, begin: str, piece: str
) -> None:
    splitter.feed(begin)
    began = time.perf_counter()
    for _ in range(100_000):
        splitter.feed(piece * 4)
    assert time.perf_counter() - began < 5


async def test_deltas_come_first_and_then_the_prediction(server: FakeProvider) -> None:
    server.plan([Answer('{"answer": "a long answer", "n": 7}')])
    async with client(server, STREAMS) as lm:
        predict = Predict("q -> answer, n: int", lm=lm)
        events = [event async for event in predict.stream(q="?")]
    *deltas, prediction = events
    assert isinstance(prediction, Prediction)
    assert (prediction.answer, prediction.n) == ("a long answer", 7)
    assert prediction.usage.total_tokens > 0
    assert len(deltas) > 1
    assert joined([d for d in deltas if isinstance(d, FieldDelta)]) == {
        "answer": "a long answer"
    }
    assert len(server.requests) == 1


async def test_unreadable_stream_is_repaired(server: FakeProvider) -> None:
    server.plan([Answer('{"answer": "x"}'), Answer('{"answer": "x", "n": 1}')])
    async with client(server, STREAMS) as lm:
        predict = Predict("q -> answer, n: int", lm=lm)
        events = [event async for event in predict.stream(q="?")]
    assert isinstance(events[-1], Prediction)
    assert events[-1].n == 1
    assert len(server.requests) == 2


async def test_leaving_the_loop_ends_the_call(server: FakeProvider) -> None:
    server.plan([Answer('{"answer": "' + "x" * 400 + '"}', pace=0.05)])
    async with client(server, STREAMS) as lm:
        stream = Predict("q -> answer", lm=lm).stream(q="?")
        with trio.fail_after(2):
            async with aclosing(stream):
                async for event in stream:
                    assert isinstance(event, FieldDelta)
                    break
            while not server.disconnects:  # noqa: ASYNC110
                await trio.sleep(0.01)


async def test_model_without_streams_gives_the_prediction_only() -> None:
    lm = ScriptedLM(['{"answer": "x"}'], capabilities=Capabilities())
    events = [event async for event in Predict("q -> answer", lm=lm).stream(q="?")]
    assert events == [Prediction(answer="x")]
