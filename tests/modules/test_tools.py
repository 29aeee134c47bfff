"""Tools: their schema, their arguments, their failures and limits, their registry."""

import math
import threading
import time
from typing import Any, Literal

import pydantic
import pytest
import trio
import trio.testing

from dspex.modules import RegisteredTool, Tool, ToolRegistry, tool
from dspex.modules.tools.arguments import first_misfit
from dspex.modules.tools.errors import (
    DuplicateToolError,
    ToolArgumentsError,
    ToolCallError,
    ToolDefinitionError,
    ToolFailedError,
    ToolTimeoutError,
    UnknownToolError,
)
from dspex.runtime import open_node

NOTHING: dict[str, object] = {}


class Point(pydantic.BaseModel):
    x: int
    y: int = 0


def search(query: str, k: int = 2, kind: Literal["web", "wiki"] = "web") -> list[str]:
    """Search for passages.

    And more of it.

    Args:
        query: what to look for
        k (int): how many
    """
    return [f"{kind} {query}"] * k


def test_schema_comes_from_annotations_and_docstring() -> None:
    found = Tool(search)
    assert found.description == "Search for passages."
    assert found.schema == {
        "type": "object",
        "properties": {
            "query": {"type": "string", "description": "what to look for"},
            "k": {"type": "integer", "description": "how many"},
            "kind": {"type": "string", "enum": ["web", "wiki"]},
        },
        "required": ["query"],
        "additionalProperties": False,
    }
    assert found.usage == (
        "search(query: str, k: int = ..., kind: Literal['web', 'wiki'] = ...)"
    )


async def test_arguments_are_validated_into_their_types() -> None:
    def where(point: Point, scale: float = 1.0) -> str:
        return f"{point.x * scale} {point.y}"

    assert await Tool(where)(point={"x": 2}, scale=3) == "6.0 0"


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ({}, "query is missing"),
        ({"query": 5}, "query: 5 is not a string"),
        ({"query": "q", "k": "2"}, "k: '2' is not an integer"),
        ({"query": "q", "k": True}, "k: True is not an integer"),
        ({"query": "q", "k": 1.5}, "k: 1.5 is not an integer"),
        ({"query": "q", "kind": "mail"}, "kind: 'mail' is none of 'web', 'wiki'"),
        ({"query": "q", "z": 1}, "z is unknown; there are query, k, kind"),
    ],
)
async def test_wrong_arguments_say_what_and_show_the_usage(
    arguments: dict[str, Any], problem: str
) -> None:
    with pytest.raises(ToolArgumentsError) as caught:
        await Tool(search).run(arguments)
    assert problem in str(caught.value)
    assert "Use search(query: str" in caught.value.observation
    assert "\n" not in caught.value.observation


@pytest.mark.parametrize(
    ("value", "annotation", "problem"),
    [
        ({"x": 1}, Point, None),
        ({"x": "1"}, Point, "x: '1' is not an integer"),
        ({}, Point, "x is missing"),
        ([{"x": 1}, {}], list[Point], "[1].x is missing"),
        ([1, "a"], list[int], "[1]: 'a' is not an integer"),
        ([1, "a"], tuple[int, str], None),
        (["1", "a"], tuple[int, str], "[0]: '1' is not an integer"),
        (None, int | None, None),
        ("x", int | None, "'x' is not an integer or a null"),
        (1.0, int, None),
        (True, float, "True is not a number"),
        ({"a": 1}, dict[str, str], "a: 1 is not a string"),
    ],
)
def test_json_values_are_checked_as_json(
    value: object, annotation: Any, problem: str | None
) -> None:
    schema = pydantic.TypeAdapter(annotation).json_schema()
    assert first_misfit(value, schema, schema) == problem


async def test_exception_of_a_tool_is_one_line_without_a_traceback() -> None:
    def broken() -> None:
        raise KeyError("multi\nline")

    with pytest.raises(ToolFailedError) as caught:
        await Tool(broken).run({})
    assert caught.value.observation == r"Error in broken: KeyError: 'multi\nline'"
    assert isinstance(caught.value.__cause__, KeyError)


@pytest.mark.parametrize("is_async", [True, False])
async def test_a_tool_that_exits_fails_its_call_only(is_async: bool) -> None:
    def leave() -> None:
        raise SystemExit("enough")

    async def leave_later() -> None:
        leave()

    leaving = Tool(leave_later if is_async else leave)
    with pytest.raises(ToolFailedError, match="SystemExit: enough"):
        await leaving.run({})


async def test_async_tool_is_cancelled_at_its_timeout(
    autojump_clock: trio.testing.MockClock,
) -> None:
    ended = False

    async def slow() -> None:
        nonlocal ended
        try:
            await trio.sleep(100)
        finally:
            ended = True

    with pytest.raises(ToolTimeoutError, match="longer than 5s"):
        await Tool(slow, timeout=5).run({})
    assert ended
    assert trio.current_time() == pytest.approx(5)


async def test_sync_tool_does_not_block_the_loop() -> None:
    def slow() -> str:
        time.sleep(0.2)
        return "done"

    async with trio.open_nursery() as nursery:
        nursery.start_soon(Tool(slow).run, NOTHING)
        with trio.fail_after(0.15):
            await trio.sleep(0.01)


async def test_calls_beyond_the_limit_wait(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async def slow() -> None:
        await trio.sleep(1)

    limited = Tool(slow, max_concurrency=2)
    async with trio.open_nursery() as nursery:
        for _ in range(6):
            nursery.start_soon(limited.run, NOTHING)
    assert trio.current_time() == pytest.approx(3)


async def test_only_idempotent_tools_are_retried() -> None:
    calls = 0

    def flaky() -> str:
        nonlocal calls
        calls += 1
        if calls < 3:
            raise OSError("down")
        return "up"

    assert await Tool(flaky, retries=2, idempotent=True).run({}) == "up"
    with pytest.raises(ToolDefinitionError, match="idempotent=True"):
        Tool(flaky, retries=2)


def test_what_cannot_be_a_tool_says_why() -> None:
    def by_position(a: int, /) -> None: ...

    def odd(a: pytest.Item) -> None: ...

    with pytest.raises(ToolDefinitionError, match="by position only"):
        Tool(by_position)
    with pytest.raises(ToolDefinitionError, match="argument 'a' without JSON schema"):
        Tool(odd)
    with pytest.raises(ToolDefinitionError, match="needs a name"):
        Tool(lambda: None)
    with pytest.raises(ToolDefinitionError, match="importable module"):
        Tool(by_name, backend="python")


def by_name(a: int) -> int:
    return a


by_name.__module__ = "__main__"


def test_decorator_takes_options() -> None:
    @tool
    def plain(a: int) -> int:
        return a

    @tool(name="other", timeout=5)
    def named(a: int) -> int:
        return a

    assert (plain.name, named.name, named.timeout) == ("plain", "other", 5)


async def test_registry_runs_tools_and_survives_their_failures() -> None:
    def broken() -> None:
        raise OSError("no disk")

    async with open_node() as node:
        ref = await node.start(ToolRegistry(), name="tools")
        assert await ref.call(ToolRegistry.register, search) == "search"
        assert await ref.call(ToolRegistry.register, broken, "disk") == "disk__broken"
        found = await ref.call(ToolRegistry.lookup, "search")
        assert await found.run({"query": "q", "k": 1}) == ["web q"]
        with pytest.raises(ToolFailedError, match="no disk"):
            await (await ref.call(ToolRegistry.lookup, "disk__broken")).run({})
        assert ref.is_alive
        listed = await ref.call(ToolRegistry.list_tools, "disk")
        assert [handle.name for handle in listed] == ["disk__broken"]
        with pytest.raises(DuplicateToolError):
            await ref.call(ToolRegistry.register, search)
        with pytest.raises(UnknownToolError, match="did you mean search"):
            await ref.call(ToolRegistry.lookup, "serch")
        await ref.call(ToolRegistry.unregister, "search")
        with pytest.raises(UnknownToolError):
            await found.run({"query": "q"})


async def test_calls_of_a_registered_tool_wait_their_turn_as_long_as_it_takes(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async def slow() -> str:
        await trio.sleep(9)
        return "done"

    gave: list[str] = []

    async def call(found: RegisteredTool) -> None:
        gave.append(await found.run(NOTHING))

    async with open_node() as node:
        limited = Tool(slow, timeout=10, max_concurrency=1)
        registry = await node.start(ToolRegistry({"slow": limited}))
        found = await registry.call(ToolRegistry.lookup, "slow")
        async with trio.open_nursery() as nursery:
            for _ in range(20):
                nursery.start_soon(call, found)
        assert trio.current_time() == pytest.approx(20 * 9)
    assert gave == ["done"] * 20


@pytest.mark.parametrize(
    ("option", "value", "problem"),
    [
        ("timeout", math.nan, "timeout of more than 0 seconds, not nan"),
        ("timeout", 0, "timeout of more than 0 seconds, not 0"),
        ("timeout", "5", "timeout of more than 0 seconds, not '5'"),
        ("approve_timeout", -1, "approve_timeout of more than 0 seconds, not -1"),
        ("max_concurrency", 0, "max_concurrency of 1 or more, not 0"),
        ("max_concurrency", 1.5, "max_concurrency of 1 or more, not 1.5"),
        ("retries", -1, "retries of 0 or more, not -1"),
    ],
)
def test_limits_that_no_call_can_keep_are_refused(
    option: str, value: Any, problem: str
) -> None:
    with pytest.raises(ToolDefinitionError, match=f"'search' needs {problem}"):
        Tool(search, idempotent=True, **{option: value})


async def test_threads_that_never_come_back_stop_nobody_but_their_tool() -> None:
    release = threading.Event()

    def stuck() -> None:
        release.wait(30)

    tried = Tool(stuck, timeout=0.2, max_concurrency=64)
    try:
        async with trio.open_nursery() as nursery:
            for _ in range(64 + 32):
                nursery.start_soon(gives_up, tried)
        with pytest.raises(ToolCallError, match="96 of its threads have not come back"):
            await tried.run({})
        with trio.fail_after(10):
            assert await trio.to_thread.run_sync(lambda: "free") == "free"
            assert await Tool(search).run({"query": "x", "k": 1}) == ["web x"]
    finally:
        release.set()


async def gives_up(tried: Tool) -> None:
    with pytest.raises(ToolTimeoutError):
        await tried.run({})


async def test_an_error_whose_text_cannot_be_had_is_a_failed_call() -> None:
    class OddError(Exception):
        def __str__(self) -> str:
            raise RuntimeError("no text")

    def fail() -> None:
        raise OddError

    with pytest.raises(ToolFailedError, match=r"OddError: \(its text cannot"):
        await Tool(fail).run({})
