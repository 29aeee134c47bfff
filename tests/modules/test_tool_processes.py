"""Tools in processes of their own: functions, and Python source."""

import os
import time

import pytest
import trio
import trio.lowlevel

from dspex.modules import Tool, python_tool
from dspex.modules.tools.errors import (
    ToolCallError,
    ToolCrashedError,
    ToolFailedError,
    ToolTimeoutError,
)


def exits() -> None:
    os._exit(7)


def sleeps() -> None:
    time.sleep(60)


def doubles(x: int) -> int:
    return 2 * x


def raises() -> None:
    raise ValueError("no")


def repeats(count: int) -> str:
    return "x" * count


async def wanders(x: int) -> int:
    await trio.lowlevel.checkpoint()
    return x


async def test_process_tool_gives_its_result() -> None:
    assert await Tool(doubles, backend="python").run({"x": 21}) == 42
    assert await Tool(wanders, backend="python").run({"x": 1}) == 1
    with pytest.raises(ToolFailedError, match="ValueError: no"):
        await Tool(raises, backend="python").run({})


async def test_d3_process_tool_that_exits_or_hangs_takes_nothing_with_it() -> None:
    with pytest.raises(ToolCrashedError, match="ended with 7"):
        await Tool(exits, backend="python").run({})
    started = trio.current_time()
    with pytest.raises(ToolTimeoutError):
        await Tool(sleeps, backend="python", timeout=0.5).run({})
    assert trio.current_time() - started < 5


async def test_a_result_that_is_too_large_is_no_crash() -> None:
    tried = Tool(repeats, backend="python")
    assert len(await tried.run({"count": 9_999_000})) == 9_999_000
    with pytest.raises(ToolCallError, match="more than 10 MB of JSON") as caught:
        await tried.run({"count": 10_000_000})
    assert not isinstance(caught.value, ToolCrashedError)
    assert "or the path of a file" in caught.value.observation


async def test_python_tool_runs_source_within_limits() -> None:
    python = python_tool(timeout=10, max_memory_mb=300)
    found = await python.run({"source": "print('hi')\nx = 6\nx * 7"})
    assert found == {"printed": "hi\n", "value": "42"}
    with pytest.raises(ToolFailedError, match="NameError"):
        await python.run({"source": "nothing"})
    with pytest.raises(ToolFailedError, match="MemoryError"):
        await python.run({"source": "x = 'a' * 10**9"})
    with pytest.raises((ToolCrashedError, ToolTimeoutError)):
        await python_tool(timeout=3, cpu_seconds=1).run({"source": "while True: pass"})
