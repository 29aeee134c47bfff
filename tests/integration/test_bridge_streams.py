"""Fields of a hosted run, told while they are written."""

from collections.abc import Callable
from typing import Any

import pytest
import trio
import trio.lowlevel

from dspex.runtime import ActorRef, open_node
from dspex.runtime.bridge import (
    DspyCall,
    DspyPool,
    PoolSettings,
)
from dspex.runtime.bridge.testing import ScriptedModel, fields


class Typewriter(ScriptedModel):
    """Tells its text in pieces of five letters."""

    async def stream(
        self, request: dict[str, Any], tell: Callable[[str], None]
    ) -> dict[str, Any]:
        answer = await self(request)
        text = answer["choices"][0]["text"]
        for start in range(0, len(text), 5):
            tell(text[start : start + 5])
            await trio.lowlevel.checkpoint()
        return answer


@pytest.mark.parametrize("model", [Typewriter, ScriptedModel])
async def test_fields_are_streamed_while_the_model_writes(
    pool: ActorRef[DspyPool], model: type[ScriptedModel]
) -> None:
    text = "bees make honey out of nectar, and wax out of honey"
    call = DspyCall(
        module="dspy.ChainOfThought",
        signature="question -> answer",
        inputs={"question": "What do bees make?"},
        adapter="chat",
        stream=["answer"],
    )
    events: list[dict[str, Any]] = []

    async def hear(event: dict[str, Any]) -> None:
        await trio.lowlevel.checkpoint()
        events.append(event)

    script = model(fields(reasoning="I know bees", answer=text, completed=""))
    result = await pool.call(DspyPool.run, call, script, None, hear, timeout=30)
    assert result.outputs == {"reasoning": "I know bees", "answer": text}
    assert result.usage["output_tokens"] == 5
    assert {event["field"] for event in events} == {"answer"}
    assert "".join(event["text"] for event in events).strip() == text
    assert len(events) > 5
    assert events[-1]["is_last"]


async def test_a_listener_that_is_slow_is_told_the_same_text_in_fewer_pieces() -> None:
    text = " ".join(f"word{number}" for number in range(4_000))
    call = DspyCall(
        module="dspy.Predict",
        signature="question -> answer, more",
        inputs={"question": "?"},
        adapter="chat",
        stream=["answer", "more"],
    )
    events: list[dict[str, Any]] = []

    async def hear(event: dict[str, Any]) -> None:
        await trio.sleep(0.005)
        events.append(event)

    async with open_node() as node:
        pool = await node.start(DspyPool(PoolSettings(spares=0)))
        model = ScriptedModel(fields(answer=text, more="so it is", completed=""))
        result = await pool.call(DspyPool.run, call, model, None, hear, timeout=60)
        assert (await pool.call(DspyPool.statistics)).died == 0
    assert result.outputs == {"answer": text, "more": "so it is"}
    answer = [event for event in events if event["field"] == "answer"]
    assert "".join(event["text"] for event in answer) == text
    assert [event["is_last"] for event in answer[-2:]] == [False, True]
    assert len(answer) < 2_000
    assert "".join(it["text"] for it in events if it["field"] == "more") == "so it is"
