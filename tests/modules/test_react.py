import json
import math
from collections.abc import Callable
from typing import Any

import pytest
import trio
import trio.testing

from dspex.modules import (
    AdapterParseError,
    AgentFailedError,
    Budget,
    ConfigError,
    MissingInputError,
    Prediction,
    ReAct,
    Tool,
    ToolRegistry,
    calculator,
)
from dspex.modules.react.trajectory import Trajectory
from dspex.modules.tools.errors import DuplicateToolError
from dspex.providers import Choice, Request, Response, ToolCall, Usage
from dspex.providers.errors import ContextLengthError, ServerError
from dspex.providers.lm import Capabilities
from dspex.providers.prices import usage_cost
from dspex.runtime import open_node
from dspex.testing import ScriptedLM

NATIVE = Capabilities()
CHAT = Capabilities(json_schema=False, tools=False)


def calls(*wanted: tuple[str, dict[str, Any]], text: str = "") -> Response:
    made = tuple(
        ToolCall(f"c{i}", name, json.dumps(arguments))
        for i, (name, arguments) in enumerate(wanted)
    )
    return Response((Choice(text, made, "tool_calls"),), Usage(10, 5), "m")


def step(tool: str, arguments: str = "{}", thought: str = "hm") -> str:
    return (
        f"[[ ## next_thought ## ]]\n{thought}\n[[ ## next_tool_name ## ]]\n{tool}\n"
        f"[[ ## next_tool_args ## ]]\n{arguments}\n[[ ## completed ## ]]"
    )


def answer(value: object) -> str:
    return f"[[ ## reasoning ## ]]\nso\n[[ ## answer ## ]]\n{value}"


def chatty(*script: str | Exception) -> ScriptedLM:
    return ScriptedLM(script, capabilities=CHAT)


def fails(reason: str) -> str:
    """Fails."""
    raise ValueError(reason)


Agent = Callable[[ScriptedLM], ReAct]


def agents(protocol: Any, **options: Any) -> Agent:
    return lambda lm: ReAct(
        "question -> answer: int",
        [calculator, fails],
        lm=lm,
        protocol=protocol,
        **options,
    )


CALCULATE: dict[str, list[str | Response]] = {
    "native_tools": [
        calls(("calculator", {"expression": "25*4"}), text="compute"),
        calls(("finish", {"answer": 100})),
    ],
    "fields": [
        step("calculator", '{"expression": "25*4"}', "compute"),
        step("finish"),
        answer(100),
    ],
    "text": [
        'Thought: compute\nAction[calculator](expression="25*4")\n',
        "Thought: done\nFinish[100]",
    ],
}


@pytest.mark.parametrize("protocol", CALCULATE)
async def test_tool_is_called_and_the_answer_typed(protocol: str) -> None:
    lm = ScriptedLM(CALCULATE[protocol], capabilities=NATIVE)
    found = await agents(protocol, adapter="chat")(lm)(question="25*4?")
    assert found.answer == 100
    assert found.success
    assert found.reason == "finished"
    first = found.steps[0]
    assert (first.thought, first.tool, first.observation) == (
        "compute",
        "calculator",
        100,
    )
    assert found.trajectory["tool_args_0"] == {"expression": "25*4"}
    assert found.usage.total_tokens > 0
    assert len(lm.requests) == len(CALCULATE[protocol])
    # The observation is in the next request.
    assert "100" in str(lm.requests[1].messages)


@pytest.mark.parametrize(("capabilities", "expected"), [(NATIVE, True), (CHAT, False)])
async def test_auto_takes_native_tools_where_there_are_any(
    capabilities: Capabilities, expected: bool
) -> None:
    script = CALCULATE["native_tools" if expected else "fields"]
    lm = ScriptedLM(script, capabilities=capabilities)
    await agents("auto")(lm)(question="25*4?")
    assert bool(lm.requests[0].tools) is expected


async def test_parallel_native_calls_run_side_by_side(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async def slow(n: int) -> int:
        await trio.sleep(1)
        return n * n

    lm = ScriptedLM(
        [
            calls(("slow", {"n": 2}), ("slow", {"n": 3}), ("slow", {"n": 4})),
            calls(("finish", {"answer": "x"})),
        ]
    )
    found = await ReAct("q -> answer", [slow], lm=lm)(q="?")
    assert [s.observation for s in found.steps[:3]] == [4, 9, 16]
    assert trio.current_time() == pytest.approx(1)
    roles = [m.role for m in lm.requests[1].messages]
    assert roles == ["system", "user", *["assistant", "tool"] * 3]


BAD = [
    ("unknown tool", "Action[serch](x)", "is unknown; there are calculator, fails"),
    ("bad arguments", "Action[calculator](x=1)", "expression is missing"),
    ("malformed", "I would say 5", "there is no Action[tool]"),
    ("exception", 'Action[fails]("no")', "Error in fails: ValueError: no"),
    ("too many", "Action[calculator](1, 2)", "it takes 1 arguments, not 2"),
    ("twice", "Action[calculator](1, expression='2')", "expression is given twice"),
    ("bad finish", "Finish[many]", "`answer` must be int"),
]


@pytest.mark.parametrize(("name", "action", "observation"), BAD)
async def test_d3_what_goes_wrong_is_an_observation(
    name: str, action: str, observation: str
) -> None:
    lm = chatty(action, "Finish[5]")
    found = await agents("text")(lm)(question="?")
    assert found.answer == 5
    assert found.success
    assert found.steps[0].failed
    assert observation in str(found.steps[0].observation)
    assert "\n" not in str(found.steps[0].observation)
    assert observation in lm.requests[1].messages[-1].text


async def test_d3_tool_timeout_is_an_observation(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async def slow() -> None:
        await trio.sleep(100)

    lm = chatty("Action[slow]()", "Finish[x]")
    tools = [Tool(slow, timeout=2)]
    found = await ReAct("q -> a", tools, lm=lm, protocol="text")(q="?")
    assert "took longer than 2s" in str(found.steps[0].observation)


async def test_fail_fast_ends_at_the_first_failure() -> None:
    lm = chatty('Action[fails]("no")', answer(0))
    found = await agents("text", fail_fast=True, adapter="chat")(lm)(question="?")
    assert not found.success
    assert found.reason == "tool_failed"
    assert len(found.steps) == 1


async def test_same_failing_call_three_times_ends_the_run() -> None:
    lm = chatty(*['Action[fails]("no")'] * 3, answer(0))
    found = await agents("text")(lm)(question="?")
    assert (found.success, found.reason, found.answer) == (False, "repeated_failure", 0)
    assert len(found.steps) == 3


async def test_d4_max_iterations_gives_the_partial_trajectory() -> None:
    lm = ScriptedLM(
        lambda request: (
            answer(7)
            if "trajectory" in request.messages[-1].text
            else f"Action[calculator]({len(request.messages)})"
        ),
        capabilities=CHAT,
    )
    found = await agents("text", max_iterations=4)(lm)(question="?")
    assert (found.success, found.reason, found.answer) == (False, "max_iterations", 7)
    assert len(found.steps) == 4
    assert len(lm.requests) == 5
    fewer = await agents("text")(lm)(question="?", max_iters=2)
    assert len(fewer.steps) == 2


@pytest.mark.parametrize(
    ("budget", "reason"),
    [
        (Budget(tokens=30), "max_tokens"),
        (Budget(seconds=2.5), "max_seconds"),
        (Budget(cost=1.0, price=lambda usage: usage.total_tokens / 20), "max_cost"),
    ],
)
async def test_d4_spent_budget_ends_without_another_call(
    budget: Budget, reason: str, autojump_clock: trio.testing.MockClock
) -> None:
    def more(request: Request) -> Response:
        return calls(("calculator", {"expression": str(len(request.messages))}))

    lm = ScriptedLM(more, delay=1)
    found = await agents("native_tools", budget=budget)(lm)(question="?")
    assert (found.success, found.reason, found.answer) == (False, reason, None)
    assert len(lm.requests) == len(found.steps) < 5


async def test_a_cost_without_a_price_is_of_the_list_or_an_error() -> None:
    answer = calls(("calculator", {"expression": "1"}))
    budget = Budget(cost=4e-6)
    listed = ScriptedLM([answer] * 20, name="openai:gpt-4.1-nano|openai:gpt-4.1")
    found = await agents("native_tools", budget=budget)(listed)(question="?")
    assert found.reason == "max_cost"
    # At the price of the dearer one.
    assert usage_cost("openai:gpt-4.1", found.usage) == pytest.approx(
        usage_cost(listed.name, found.usage)
    )
    with pytest.raises(AgentFailedError, match="'scripted:model' has no list price"):
        await agents("native_tools", budget=budget)(ScriptedLM([answer]))(question="?")


async def test_iterations_are_those_said_last_beside_a_budget() -> None:
    lm = ScriptedLM(lambda _: calls(("calculator", {"expression": "1"})))
    agent = agents("native_tools", budget=Budget(tokens=10_000), max_iterations=2)(lm)
    assert agent.budget == Budget(2, tokens=10_000)


async def test_d4_full_context_leaves_the_oldest_steps_out() -> None:
    def limited(request: Request) -> str | Exception:
        if len(request.messages) > 6:
            return ContextLengthError("too long", provider="scripted")
        if len(lm.requests) > 6:
            return "Finish[1]"
        return f"Action[calculator]({len(lm.requests)})"

    lm = ScriptedLM(limited, capabilities=CHAT)
    found = await agents("text")(lm)(question="?")
    assert found.success
    assert "thought_0" not in found.trajectory
    # All of them are still there to be looked at.
    assert found.steps[0].observation == 1
    assert "earlier steps are left out" in str(lm.requests[-1].messages)


async def test_a_full_context_of_parallel_calls_is_shortened_until_it_fits() -> None:
    many = [("calculator", {"expression": str(i)}) for i in range(30)]

    def limited(request: Request) -> Response | Exception:
        if len(lm.requests) == 1:
            return calls(*many)
        if len(request.messages) > 8:
            return ContextLengthError("too long", provider="scripted")
        return calls(("finish", {"answer": 1}))

    lm = ScriptedLM(limited)
    found = await agents("native_tools")(lm)(question="?")
    assert (found.reason, found.answer) == ("finished", 1)
    # 1, 2, 4, 8, then all but the last: five refusals, not one for each step.
    assert (found.dropped, len(lm.requests)) == (29, 7)
    assert "(29 earlier steps are left out)" in str(lm.requests[-1].messages)


async def test_what_was_found_is_read_from_as_many_steps_as_fit() -> None:
    many = [("calculator", {"expression": str(i)}) for i in range(30)]

    def limited(request: Request) -> str | Response | Exception:
        if len(lm.requests) == 1:
            return calls(*many)
        if request.messages[-1].text.count("[[ ## thought_") > 20:
            return ContextLengthError("too long", provider="scripted")
        return answer(2)

    lm = ScriptedLM(limited)
    agent = agents("native_tools", max_iterations=1, adapter="chat")
    found = await agent(lm)(question="?")
    assert (found.reason, found.answer) == ("max_iterations", 2)
    assert found.dropped == 1 + 2 + 4 + 8


async def test_a_single_step_that_is_too_much_ends_the_run() -> None:
    def limited(request: Request) -> str | Response | Exception:
        if len(lm.requests) == 1:
            return calls(("calculator", {"expression": "1"}))
        if request.tools:
            return ContextLengthError("too long", provider="scripted")
        return answer(3)

    lm = ScriptedLM(limited)
    found = await agents("native_tools", adapter="chat")(lm)(question="?")
    assert (found.success, found.reason, found.answer) == (False, "context_full", 3)
    assert len(lm.requests) == 3


async def test_d4_long_observations_are_cut_for_the_model_only() -> None:
    def long() -> str:
        return "x" * 5_000

    lm = chatty("Action[long]()", "Finish[y]")
    agent = ReAct("q -> a", [long], lm=lm, protocol="text", max_observation=100)
    found = await agent(q="?")
    shown = lm.requests[1].messages[-1].text
    assert "(4900 characters left out)" in shown
    assert len(shown) < 200
    assert found.steps[0].observation == "x" * 5_000


async def test_failed_model_call_keeps_the_trajectory() -> None:
    lm = chatty("Action[calculator](1)", ServerError("down", provider="scripted"))
    with pytest.raises(AgentFailedError, match="after 1 steps") as caught:
        await agents("text")(lm)(question="?")
    assert caught.value.trajectory.steps[0].observation == 1
    assert isinstance(caught.value.__cause__, ServerError)


async def test_unreadable_answer_keeps_the_trajectory() -> None:
    lm = chatty(step("finish"), "no", "no")
    with pytest.raises(AgentFailedError) as caught:
        await agents("fields")(lm)(question="?")
    assert isinstance(caught.value.cause, AdapterParseError)
    assert caught.value.reason == "finished"


async def test_finish_with_arguments_saves_the_last_call() -> None:
    lm = chatty(step("finish", '{"answer": "42"}'))
    found = await agents("fields")(lm)(question="?")
    assert found.answer == 42
    assert len(lm.requests) == 1


async def test_tools_of_a_registry_can_be_used() -> None:
    async with open_node() as node:
        ref = await node.start(ToolRegistry())
        await ref.call(ToolRegistry.register, calculator, "math")
        tools = await ref.call(ToolRegistry.list_tools)
        lm = ScriptedLM(
            [
                calls(("math__calculator", {"expression": "6*7"})),
                calls(("finish", {"answer": "42"})),
            ]
        )
        found = await ReAct("q -> answer", tools, lm=lm)(q="?")
        assert found.steps[0].observation == 42


def test_bad_agents_are_refused() -> None:
    with pytest.raises(DuplicateToolError, match="calculator"):
        ReAct("q -> a", [calculator, calculator])
    with pytest.raises(DuplicateToolError, match="finish"):
        ReAct("q -> a", [Tool(calculator, name="finish")])
    with pytest.raises(ConfigError, match="protocol"):
        ReAct("q -> a", [], protocol="json")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="tokens"):
        Budget(tokens=0)
    with pytest.raises(ConfigError, match="'seconds' = '2' must be a number"):
        Budget(seconds="2")  # type: ignore[arg-type]


async def test_inputs_are_checked_first() -> None:
    with pytest.raises(MissingInputError):
        await agents("text")(chatty())()


async def test_prediction_of_an_agent_goes_to_json_and_back() -> None:
    lm = chatty("Action[calculator](1)", "Finish[5]")
    found = await agents("text")(lm)(question="?")
    plain = json.loads(json.dumps(found.to_json()))
    again = Prediction.from_json(plain)
    assert again == found
    assert again.reason == "finished"


@pytest.mark.parametrize(
    ("limit", "value", "problem"),
    [
        ("seconds", math.nan, "NaN is not"),
        ("cost", math.nan, "NaN is not"),
        ("iterations", 1.5, "whole number"),
    ],
)
def test_a_limit_that_never_ends_a_run_is_refused(
    limit: str, value: float, problem: str
) -> None:
    with pytest.raises(ConfigError, match=problem):
        Budget(**{limit: value})  # type: ignore[arg-type]


class Unshown:
    def __repr__(self) -> str:
        raise RuntimeError("no text")


def nested() -> object:
    found: list[object] = []
    for _ in range(100_000):
        found = [found]
    return found


@pytest.mark.parametrize(
    ("value", "problem"),
    [(Unshown(), "Unshown that cannot be shown"), (nested(), "RecursionError")],
    ids=["no text", "too deep"],
)
def test_what_cannot_be_shown_is_said_to_be_so(value: object, problem: str) -> None:
    assert problem in Trajectory(max_observation=100).show(value)
