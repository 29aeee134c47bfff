"""What travels between the parent and a hosted module: types, images, values."""

import datetime
from typing import Any

import pydantic
import pytest
import trio
import trio.lowlevel

from dspex.runtime import ActorRef
from dspex.runtime.bridge import (
    DspyCall,
    DspyPool,
    Example,
    History,
    HostedTool,
    Image,
    RemoteError,
    ToolCalls,
)
from dspex.runtime.bridge.testing import ScriptedModel, fields, no_model

ADD = HostedTool(
    "add",
    "Add two numbers.",
    {
        "type": "object",
        "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}},
        "required": ["a", "b"],
    },
)


PNG = "data:image/png;base64,iVBORw0KGgo="


class Part(pydantic.BaseModel):
    name: str
    price: float = pydantic.Field(ge=0)


class Order(pydantic.BaseModel):
    customer: str
    day: datetime.date
    parts: list[Part]
    note: str | None = None


async def test_pydantic_types_cross_by_schema(pool: ActorRef[DspyPool]) -> None:
    text = (
        '{"customer": "Ann", "day": "2026-01-02",'
        ' "parts": [{"name": "bolt", "price": 1.5}], "note": null}'
    )
    model = ScriptedModel(f'{{"order": {text}}}')
    call = DspyCall(
        module="dspy.Predict",
        signature="letter: str, last: Order -> order: Order",
        types={"Order": Order.model_json_schema()},
        inputs={
            "letter": "Dear Sirs",
            "last": Order(customer="Bob", day=datetime.date(2025, 1, 1), parts=[]),
        },
        adapter="json",
    )
    result = await pool.call(DspyPool.run, call, model, timeout=30)
    order = Order.model_validate(result.outputs["order"])
    assert order.parts == [Part(name="bolt", price=1.5)]
    assert order.day == datetime.date(2026, 1, 2)
    (request,) = model.requests
    assert "Bob" in request["messages"][-1]["content"]
    properties = request["output_schema"]["schema"]["$defs"]["Order"]["properties"]
    assert list(properties) == ["customer", "day", "parts", "note"]


async def test_a_value_that_breaks_its_schema_is_refused(
    pool: ActorRef[DspyPool],
) -> None:
    wrong = '{"part": {"name": "bolt", "price": -1}}'
    call = DspyCall(
        module="dspy.Predict",
        signature="letter -> part: Part",
        types={"Part": Part.model_json_schema()},
        inputs={"letter": "Dear Sirs"},
        adapter="json",
    )
    with pytest.raises(RemoteError, match="greater than or equal to 0"):
        await pool.call(DspyPool.run, call, ScriptedModel(wrong), timeout=30)


async def test_dspys_own_types_travel_by_tag(pool: ActorRef[DspyPool]) -> None:
    history = History(({"question": "a?", "answer": "b"},))
    day = datetime.date(2026, 2, 3)
    call = DspyCall(
        module="hosted_programs:kinds",
        inputs={"image": Image(PNG), "day": day, "history": history},
    )
    result = await pool.call(DspyPool.run, call, no_model, timeout=30)
    assert result.outputs == {
        "names": ["Image", "date", "History"],
        "image": Image(PNG),
        "day": day,
        "history": history,
    }


async def test_examples_predictions_tools_and_their_calls_travel_both_ways(
    pool: ActorRef[DspyPool],
) -> None:
    async def tools(name: str, arguments: dict[str, Any]) -> object:
        await trio.lowlevel.checkpoint()
        return [name, arguments["a"] + arguments["b"]]

    wanted = {"name": "add", "args": {"a": 2, "b": 3}}
    call = DspyCall(
        module="hosted_programs:rows",
        inputs={
            "row": Example({"question": "2 + 3?", "answer": 5}, ("question",)),
            "wanted": ToolCalls((wanted,)),
            "tool": ADD,
        },
    )
    result = await pool.call(DspyPool.run, call, no_model, tools, timeout=30)
    tool = result.outputs.pop("tool")
    assert isinstance(tool, HostedTool)
    assert (tool.name, tool.description) == (ADD.name, ADD.description)
    assert tool.parameters["properties"] == ADD.parameters["properties"]
    assert result.outputs == {
        "names": ["Example", "ToolCalls", "Tool"],
        "inputs": ["question"],
        "row": {"question": "2 + 3?", "answer": 5},
        "prediction": {"answer": 5},
        "wanted": {"tool_calls": [wanted]},
        "told": ["add", 5],
    }


async def test_an_image_reaches_the_parents_model(pool: ActorRef[DspyPool]) -> None:
    model = ScriptedModel(fields(answer="a cat"))
    call = DspyCall(
        module="dspy.Predict",
        signature="picture: dspy.Image -> answer",
        inputs={"picture": Image(PNG)},
    )
    result = await pool.call(DspyPool.run, call, model, timeout=30)
    assert result.outputs == {"answer": "a cat"}
    parts = model.requests[0]["messages"][-1]["content"]
    (image,) = [part for part in parts if part["type"] == "image"]
    assert (image["media_type"], image["data"]) == ("image/png", "iVBORw0KGgo=")
