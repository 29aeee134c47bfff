"""MCP: a real server of the `mcp` package as a child process, its tools in an agent."""

import os
import signal
import sys
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

from dspex.modules import MCPServer, MCPTool, ReAct
from dspex.modules.tools.errors import (
    MCPServerDiedError,
    MCPServerGoneError,
    ToolArgumentsError,
    ToolDefinitionError,
    ToolDeniedError,
    ToolFailedError,
    ToolTimeoutError,
    UnknownToolError,
)
from dspex.runtime import ActorRef, Node, StartError, open_node
from dspex.runtime.child_process import live_members
from dspex.supervisors import ChildSpec, ChildStartError, DynamicSupervisor
from dspex.testing import ScriptedLM

SERVER = '''
import os, sys, time
from mcp.server.mcpserver import Context, MCPServer

server = MCPServer("town")

@server.tool()
def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b

@server.tool()
def pid() -> int:
    """The server's process."""
    return os.getpid()

@server.tool()
def fail(reason: str, log: str = "") -> str:
    """Always fails."""
    if log:
        with open(log, "a") as file:
            file.write("x")
    raise ValueError(reason)

@server.tool()
async def slow(log: str = "") -> str:
    """Takes its time."""
    import anyio
    if log:
        with open(log, "a") as file:
            file.write("x")
    await anyio.sleep(30)
    return "late"

@server.tool()
def flaky(log: str) -> int:
    """Fails once, then ends the server once, then works."""
    with open(log, "a") as file:
        file.write("x")
    calls = os.stat(log).st_size
    if calls == 1:
        raise ValueError("not yet")
    if calls == 2:
        os._exit(3)
    return calls

@server.tool()
def die() -> str:
    """Ends the server."""
    os._exit(3)

@server.tool()
async def change(ctx: Context) -> str:
    """Has other tools from now on."""
    def mul(a: int, b: int) -> int:
        return a * b
    server.add_tool(mul)
    server.remove_tool("add")
    await ctx.session.send_tool_list_changed()
    return "changed"

print("up", file=sys.stderr, flush=True)
server.run("stdio")
'''


@asynccontextmanager
async def town(
    tmp_path: Path, *, timeout: float = 20.0, **options: Any
) -> AsyncGenerator[tuple[Node, dict[str, MCPTool]]]:
    script = tmp_path / "town.py"
    script.write_text(SERVER)
    async with open_node() as node:
        supervisor = await node.start(DynamicSupervisor(intensity=10))

        def build() -> MCPServer:
            return MCPServer([sys.executable, str(script)], timeout=timeout, **options)

        spec = ChildSpec("town", build, name="town")
        await supervisor.call(DynamicSupervisor.start_child, spec, timeout=60)
        ref: ActorRef[MCPServer] = await node.registry.wait_for("town", 1)
        tools = await ref.call(MCPServer.list_tools)
        yield node, {tool.name: tool for tool in tools}


async def gone(pid: int) -> None:
    with trio.fail_after(10):
        while is_running(pid):
            await trio.sleep(0.02)


def is_running(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


async def test_tools_have_schema_run_and_fail_as_typed_errors(tmp_path: Path) -> None:
    async with town(tmp_path, timeout=3.0) as (_, tools):
        assert tools["add"].usage == "add(a: integer, b: integer)"
        assert tools["add"].description == "Add two numbers."
        assert await tools["add"].run({"a": 2, "b": 3}) == 5
        with pytest.raises(ToolArgumentsError, match="Use add"):
            await tools["add"].run({"a": 2})
        with pytest.raises(ToolFailedError, match="Error executing tool fail"):
            await tools["fail"].run({"reason": "no such thing"})
        with pytest.raises(ToolTimeoutError):
            await tools["slow"].run({})
        pid = await tools["pid"].run({})
    await gone(pid)


async def test_the_death_of_the_server_is_an_observation_and_it_comes_back(
    tmp_path: Path,
) -> None:
    async with town(tmp_path) as (_, tools):
        first = await tools["pid"].run({})
        with pytest.raises(MCPServerDiedError):
            await tools["die"].run({})
        # Supervised: the same tool, a new process.
        second = await tools["pid"].run({})
        assert second != first


async def test_a_server_that_dies_between_two_calls_is_started_again_unasked(
    tmp_path: Path,
) -> None:
    async with town(tmp_path) as (node, tools):
        server: ActorRef[MCPServer] = await node.registry.wait_for("town", 1)
        first = await tools["pid"].run({})
        os.kill(first, signal.SIGKILL)
        with trio.fail_after(10):
            reason = await server.wait_exit()
        assert isinstance(reason, MCPServerGoneError)
        assert "'town'" in str(reason)
        assert await tools["pid"].run({}) != first


@pytest.mark.parametrize("max_concurrency", [100, 8])
async def test_a_hundred_calls_under_way_end_with_their_killed_server(
    tmp_path: Path, max_concurrency: int
) -> None:
    failed: list[BaseException] = []
    started = tmp_path / "started"

    async def call(tool: MCPTool) -> None:
        with pytest.raises(
            MCPServerDiedError, match="lost its server 'town'"
        ) as caught:
            await tool.run({"log": str(started)})
        failed.append(caught.value)

    async with town(tmp_path, max_concurrency=max_concurrency) as (_, tools):
        first = await tools["pid"].run({})
        with trio.fail_after(20):
            async with trio.open_nursery() as nursery:
                for _ in range(100):
                    nursery.start_soon(call, tools["slow"])
                while (
                    not started.exists() or len(started.read_text()) < max_concurrency
                ):
                    await trio.sleep(0.02)
                os.kill(first, signal.SIGKILL)
            second = await tools["pid"].run({})
        assert len(failed) == 100
        assert len(started.read_text()) == max_concurrency
        assert await tools["add"].run({"a": 2, "b": 3}) == 5
        assert live_members(first) == []
    await gone(second)
    assert live_members(second) == []


async def test_calls_of_a_busy_server_wait_their_turn_as_long_as_it_takes(
    tmp_path: Path,
) -> None:
    late: list[ToolTimeoutError] = []

    async def call(tool: MCPTool) -> None:
        with pytest.raises(ToolTimeoutError, match=r"longer than 0\.4s") as caught:
            await tool.run({})
        late.append(caught.value)

    async with town(tmp_path, timeout=0.4, max_concurrency=1) as (_, tools):
        with trio.fail_after(30):
            async with trio.open_nursery() as nursery:
                for _ in range(18):
                    nursery.start_soon(call, tools["slow"])
    assert len(late) == 18


async def test_tools_that_change_are_listed_anew(tmp_path: Path) -> None:
    async with town(tmp_path) as (node, tools):
        server: ActorRef[MCPServer] = await node.registry.wait_for("town", 1)
        assert await tools["change"].run({}) == "changed"
        with trio.fail_after(10):
            while "mul" not in (now := await names(server)):
                await trio.sleep(0.02)
        assert "add" not in now
        listed = {it.name: it for it in await server.call(MCPServer.list_tools)}
        assert await listed["mul"].run({"a": 2, "b": 3}) == 6
        with pytest.raises(UnknownToolError, match="mul"):
            await tools["add"].run({"a": 2, "b": 3})


async def names(server: ActorRef[MCPServer]) -> set[str]:
    return {it.name for it in await server.call(MCPServer.list_tools)}


async def test_only_tools_named_idempotent_are_retried_after_a_death_too(
    tmp_path: Path,
) -> None:
    log = tmp_path / "calls"
    async with town(tmp_path, retries=2, idempotent=["flaky"]) as (_, tools):
        assert await tools["flaky"].run({"log": str(log)}) == 3
        once = tmp_path / "once"
        with pytest.raises(ToolFailedError):
            await tools["fail"].run({"reason": "x", "log": str(once)})
    assert (log.read_text(), once.read_text()) == ("xxx", "x")


async def test_approval_is_asked_before_anything_is_sent(tmp_path: Path) -> None:
    log = tmp_path / "calls"
    asked: list[tuple[str, object]] = []

    async def approve(tool: MCPTool, arguments: Mapping[str, Any]) -> bool | str:
        asked.append((tool.name, dict(arguments)))
        if tool.name == "fail":
            raise KeyError("no such policy")
        return tool.name == "add" or "writes files"

    async with town(tmp_path, approve=approve) as (_, tools):
        assert await tools["add"].run({"a": 2, "b": 3}) == 5
        with pytest.raises(ToolArgumentsError):
            await tools["add"].run({"a": 2})
        with pytest.raises(ToolDeniedError, match="was not allowed: writes files"):
            await tools["flaky"].run({"log": str(log)})
        with pytest.raises(ToolDeniedError, match="approval could not be asked for"):
            await tools["fail"].run({"reason": "x"})
    assert not log.exists()
    assert [name for name, _ in asked] == ["add", "flaky", "fail"]


async def test_what_cannot_be_retried_fails_the_start(tmp_path: Path) -> None:
    with pytest.raises(ToolDefinitionError, match="idempotent="):
        MCPServer(["server"], retries=1)
    with pytest.raises(ChildStartError, match="'ad' is no tool of 'town'"):
        async with town(tmp_path, retries=1, idempotent=["ad"]):
            raise AssertionError("it started")


async def test_an_agent_uses_the_tools(tmp_path: Path) -> None:
    def step(tool: str, arguments: str) -> str:
        return (
            f"[[ ## next_thought ## ]]\nt\n\n[[ ## next_tool_name ## ]]\n{tool}\n\n"
            f"[[ ## next_tool_args ## ]]\n{arguments}\n\n[[ ## completed ## ]]"
        )

    answer = (
        "[[ ## reasoning ## ]]\nr\n\n[[ ## answer ## ]]\n5\n\n[[ ## completed ## ]]"
    )
    lm = ScriptedLM(
        [
            step("die", "{}"),
            step("add", '{"a": 2, "b": 3}'),
            step("finish", "{}"),
            answer,
        ]
    )
    async with town(tmp_path) as (_, tools):
        agent = ReAct(
            "question -> answer: int",
            list(tools.values()),
            lm=lm,
            adapter="chat",
            protocol="fields",
        )
        found = await agent(question="2 + 3?")
    assert (found.answer, found.success) == (5, True)
    assert [step.failed for step in found.steps] == [True, False, False]
    assert "lost its server 'town'" in found.trajectory["observation_0"]


async def test_a_server_that_does_not_start_says_why(tmp_path: Path) -> None:
    script = tmp_path / "bad.py"
    script.write_text("import sys\nsys.exit('no such database')\n")
    async with open_node() as node:
        with pytest.raises(StartError, match="no such database"):
            await node.start(MCPServer([sys.executable, str(script)]), name="bad")
        with pytest.raises(StartError, match="did not start"):
            await node.start(MCPServer(["/no/such/program"]), name="none")
