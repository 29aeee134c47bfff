"""Tools of the parent that hosted modules call."""

from typing import Any

import pytest
import trio
import trio.lowlevel

from dspex.runtime import ActorRef
from dspex.runtime.bridge import (
    DspyCall,
    DspyPool,
    HostedTool,
    RemoteError,
)
from dspex.runtime.bridge.testing import ScriptedModel, fields, response

ADD = HostedTool(
    "add",
    "Add two numbers.",
    {
        "type": "object",
        "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}},
        "required": ["a", "b"],
    },
)


async def test_a_tool_of_the_parent_is_called_by_a_hosted_react(
    pool: ActorRef[DspyPool],
) -> None:
    calls: list[tuple[str, dict[str, Any]]] = []

    async def tools(name: str, arguments: dict[str, Any]) -> object:
        await trio.lowlevel.checkpoint()
        calls.append((name, arguments))
        if arguments["b"] == 0:
            raise ZeroDivisionError("not today")
        return arguments["a"] + arguments["b"]

    def step(thought: str, name: str, args: str) -> str:
        return fields(next_thought=thought, next_tool_name=name, next_tool_args=args)

    model = ScriptedModel(
        step("add", "add", '{"a": 2, "b": 0}'),
        step("again", "add", '{"a": 2, "b": 3}'),
        step("done", "finish", "{}"),
        fields(reasoning="it says so", answer=5),
    )
    call = DspyCall(
        module="dspy.ReAct",
        signature="question -> answer: int",
        inputs={"question": "2 + 3?"},
        tools=[ADD],
    )
    result = await pool.call(DspyPool.run, call, model, tools, timeout=30)
    assert result.outputs["answer"] == 5
    assert calls == [("add", {"a": 2, "b": 0}), ("add", {"a": 2, "b": 3})]
    trajectory = result.outputs["trajectory"]
    assert "ZeroDivisionError: not today" in trajectory["observation_0"]
    assert trajectory["observation_1"] == 5


async def test_native_tool_calls_cross_over(pool: ActorRef[DspyPool]) -> None:
    asked: list[dict[str, Any]] = []

    async def model(request: dict[str, Any]) -> dict[str, Any]:
        await trio.lowlevel.checkpoint()
        asked.append(request)
        answer = response("")
        answer["choices"][0] |= {
            "tool_calls": [
                {"id": "c1", "name": "add", "arguments": '{"a": 1, "b": 2}'}
            ],
            "finish_reason": "tool_calls",
        }
        return answer

    call = DspyCall(
        module="hosted_programs:CallsTools",
        inputs={"question": "1 + 2?"},
        tools=[ADD],
        native_tools=True,
    )
    result = await pool.call(DspyPool.run, call, model, timeout=30)
    assert result.outputs == {
        "outputs": {"tool_calls": [{"name": "add", "args": {"a": 1, "b": 2}}]}
    }
    assert [tool["name"] for tool in asked[0]["tools"]] == ["add"]


@pytest.mark.parametrize(
    ("name", "parameters", "message"),
    [
        ("two words", {}, "tool 'two words': a name has 1 to 64 letters"),
        ("", {}, "tool '': a name has"),
        ("add", {"type": "array"}, "tool 'add': its parameters are of type 'array'"),
    ],
)
def test_l9_a_tool_that_no_model_could_call_is_refused(
    name: str, parameters: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        HostedTool(name, "", parameters)


def test_l9_two_tools_of_one_name_are_refused() -> None:
    with pytest.raises(ValueError, match=r"tools of dspy\.ReAct: two are called 'add'"):
        DspyCall(module="dspy.ReAct", inputs={}, tools=[ADD, ADD])


async def test_l9_arguments_that_are_no_json_are_an_error(
    pool: ActorRef[DspyPool],
) -> None:
    async def model(request: dict[str, Any]) -> dict[str, Any]:
        await trio.lowlevel.checkpoint()
        answer = response("")
        answer["choices"][0] |= {
            "tool_calls": [{"id": "c1", "name": "add", "arguments": '{"a": 1, '}],
            "finish_reason": "tool_calls",
        }
        return answer

    call = DspyCall(
        module="hosted_programs:CallsTools",
        inputs={"question": "1 + 2?"},
        tools=[ADD],
        native_tools=True,
    )
    with pytest.raises(RemoteError, match=r"'add' are no JSON"):
        await pool.call(DspyPool.run, call, model, timeout=30)
