"""MCP servers that answer what they should not, hang on, or write without end."""

import math
import os
import signal
import subprocess
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import structlog
import trio

from dspex.modules import MCPServer, MCPTool
from dspex.modules.tools import mcp_process
from dspex.modules.tools.errors import (
    MCPServerDiedError,
    ToolArgumentsError,
    ToolFailedError,
)
from dspex.runtime import ActorRef, StartError, open_node
from tests.integration.test_mcp_tools import gone

SERVER = r"""
import json, os, signal, sys, time

fault = sys.argv[1]
shape = {"type": "object"}
tools = [{"name": "ask", "inputSchema": shape}, {"name": "pid", "inputSchema": shape}]
if fault == "schema":
    tools[0]["outputSchema"] = {"type": "object", "required": ["n"]}
if fault == "listing":
    tools = [{"nam": 1}]

changed = set()

def send(found):
    print(json.dumps({"jsonrpc": "2.0", **found}), flush=True)

def say(id, text):
    send({"id": id, "result": {"content": [{"type": "text", "text": text}]}})

for line in sys.stdin:
    asked = json.loads(line)
    id = asked.get("id")
    if asked["method"] == "initialize":
        version = asked["params"]["protocolVersion"] if fault != "version" else "1066"
        about = {"name": "s", "version": "1"}
        send({"id": id, "result": {"protocolVersion": version,
              "capabilities": {"tools": {}}, "serverInfo": about}})
    elif asked["method"] == "tools/list" and fault in changed:
        changed.clear()
        if fault == "relisting":
            send({"id": id, "result": {"tools": [{"nam": 1}]}})
        elif fault == "refusing":
            send({"id": id, "error": {"code": -32603, "message": "not today"}})
    elif asked["method"] == "tools/list":
        send({"id": id, "result": {"tools": tools}})
    elif asked["method"] != "tools/call":
        continue
    elif asked["params"]["name"] == "pid":
        say(id, str(os.getpid()))
    elif fault in ("relisting", "refusing", "forgetting"):
        changed.add(fault)
        send({"method": "notifications/tools/list_changed"})
        say(id, "ok")
    elif fault == "schema":
        send({"id": id, "result": {"content": [], "structuredContent": {"m": 1}}})
    elif fault == "result":
        send({"id": id, "result": {"content": "no list"}})
    elif fault == "code":
        send({"id": id, "error": {"code": -32000, "message": "out of paper"}})
    elif fault == "bytes":
        sys.stdout.buffer.write(b"\xff\xfe\n")
        say(id, "read on")
    elif fault == "large":
        say(id, "x" * 20_000_000)
    elif fault == "endless":
        while True:
            sys.stdout.write("x" * 65_536)
    else:
        say(id, "ok")

print("at the end of stdin", file=sys.stderr, flush=True)
if fault == "stays":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    time.sleep(1000)
if fault == "tidy":
    time.sleep(0.3)
    open(sys.argv[2], "w").write("tidied up")
"""


def command(tmp_path: Path, fault: str, *more: str) -> list[str]:
    script = tmp_path / "server.py"
    script.write_text(SERVER)
    return [sys.executable, str(script), fault, *more]


@asynccontextmanager
async def faulty(
    tmp_path: Path, fault: str, *more: str, timeout: float = 20.0
) -> AsyncGenerator[tuple[ActorRef[MCPServer], dict[str, MCPTool]]]:
    async with open_node() as node:
        server = MCPServer(command(tmp_path, fault, *more), timeout=timeout)
        ref = await node.start(server, name="faulty")
        tools = await ref.call(MCPServer.list_tools)
        yield ref, {tool.name: tool for tool in tools}


@pytest.mark.parametrize(
    ("fault", "problem"),
    [
        ("schema", "Invalid structured content"),
        ("result", "validation error for CallToolResult"),
        ("code", "out of paper"),
    ],
)
async def test_an_answer_that_does_not_fit_fails_its_call_alone(
    tmp_path: Path, fault: str, problem: str
) -> None:
    async with faulty(tmp_path, fault) as (ref, tools):
        with pytest.raises(ToolFailedError, match=problem):
            await tools["ask"].run({})
        assert await tools["pid"].run({})
        assert ref.is_alive


@pytest.mark.parametrize(
    ("fault", "problem"),
    [
        ("relisting", "validation errors for ListToolsResult"),
        ("refusing", "not today"),
        ("forgetting", "no answer within 1s"),
    ],
)
async def test_tools_that_cannot_be_listed_anew_stay_as_they_were(
    tmp_path: Path, fault: str, problem: str
) -> None:
    async with faulty(tmp_path, fault, timeout=1.0) as (ref, tools):
        before = await ref.call(MCPServer.list_tools)
        with structlog.testing.capture_logs() as logs:
            assert await tools["ask"].run({}) == "ok"
            with trio.fail_after(10):
                while not (told := [it for it in logs if "reason" in it]):
                    await trio.sleep(0.02)
        assert (told[0]["event"], told[0]["server"]) == ("mcp_tools_not_read", "faulty")
        assert problem in told[0]["reason"]
        assert await ref.call(MCPServer.list_tools) == before
        assert await tools["pid"].run({})


@pytest.mark.parametrize(
    ("fault", "problem"),
    [
        ("version", "did not start: Unsupported protocol version"),
        ("listing", r"did not start: \d+ validation errors for ListToolsResult"),
    ],
)
async def test_a_server_that_speaks_no_mcp_says_so_at_its_start(
    tmp_path: Path, fault: str, problem: str
) -> None:
    with pytest.raises(StartError, match=problem):
        async with faulty(tmp_path, fault):
            raise AssertionError("it started")


async def test_bytes_that_are_no_text_are_passed_over(tmp_path: Path) -> None:
    async with faulty(tmp_path, "bytes") as (_, tools):
        assert await tools["ask"].run({}) == "read on"


async def test_a_large_answer_comes_whole(tmp_path: Path) -> None:
    async with faulty(tmp_path, "large") as (_, tools):
        assert len(await tools["ask"].run({})) == 20_000_000


async def test_a_line_without_end_ends_the_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mcp_process, "MAX_LINE_BYTES", 1_000_000)
    async with faulty(tmp_path, "endless") as (ref, tools):
        pid = int(await tools["pid"].run({}))
        with pytest.raises(MCPServerDiedError):
            await tools["ask"].run({})
        with trio.fail_after(20):
            await ref.wait_exit()
    await gone(pid)


@pytest.mark.parametrize("value", ["\ud800", math.nan, object()], ids=repr)
async def test_arguments_that_cannot_be_sent_hurt_nobody_else(
    tmp_path: Path, value: Any
) -> None:
    async with faulty(tmp_path, "none") as (ref, tools):
        with pytest.raises(ToolArgumentsError, match="they are no JSON"):
            await tools["ask"].run({"x": value})
        assert await tools["ask"].run({"x": "fits"}) == "ok"
        assert ref.is_alive


async def test_a_server_may_tidy_up_at_the_end_of_its_stdin(tmp_path: Path) -> None:
    note = tmp_path / "note"
    async with faulty(tmp_path, "tidy", str(note)) as (_, tools):
        assert await tools["ask"].run({}) == "ok"
    assert note.read_text() == "tidied up"


OWNER = """
import sys, trio
from dspex.modules import MCPServer
from dspex.runtime import open_node

async def main():
    async with open_node() as node:
        ref = await node.start(MCPServer(sys.argv[1:], timeout=20.0), name="owned")
        for tool in await ref.call(MCPServer.list_tools):
            if tool.name == "pid":
                print(await tool.run({}), flush=True)
        await trio.sleep_forever()

trio.run(main)
"""


async def test_a_server_that_stays_does_not_outlive_a_killed_dspex(
    tmp_path: Path,
) -> None:
    owner = subprocess.Popen(
        [sys.executable, "-c", OWNER, *command(tmp_path, "stays")],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    assert owner.stdout is not None
    with owner, owner.stdout as said:
        try:
            pid = int(await trio.to_thread.run_sync(said.readline))
        finally:
            os.kill(owner.pid, signal.SIGKILL)
    await gone(pid)
