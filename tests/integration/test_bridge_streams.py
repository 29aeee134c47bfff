"""Fields of a hosted run that come faster than whoever hears of them can take them."""

from typing import Any

import trio

from dspex.runtime import open_node
from dspex.runtime.bridge import DspyCall, DspyPool, PoolSettings
from dspex.runtime.bridge.testing import ScriptedModel, fields


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
