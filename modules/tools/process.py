"""A function in a process of its own: it can be killed, and take nothing with it."""

import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, cast

import trio

from dspex.modules.tools import process_child
from dspex.modules.tools.errors import (
    ToolCallError,
    ToolCrashedError,
    ToolFailedError,
    ToolTimeoutError,
)
from dspex.runtime.child_pipes import child_pipes
from dspex.runtime.child_process import GUARD, ChildProcess

_CHILD: Final = Path(process_child.__file__)
_READ_BYTES: Final = 65_536
_MAX_BYTES: Final = 10_000_000


async def run_in_process(
    name: str,
    function: Callable[..., Any],  # Any: what the function takes and gives
    arguments: Mapping[str, Any],  # Any: JSON
    *,
    timeout: float,
    max_memory_mb: int | None = None,
) -> Any:  # Any: JSON
    """Run a function in a new process and give its result; kill it when time is up.

    Raises:
        ToolTimeoutError: no result in `timeout` seconds.
        ToolCrashedError: the process died first.
        ToolFailedError: the function raised an exception.
        ToolCallError: its result was too large.
    """
    job = {
        "module": function.__module__,
        "function": function.__qualname__,
        "arguments": dict(arguments),
        "path": [entry for entry in sys.path if entry],
    }
    return await run_job(name, job, timeout=timeout, max_memory_mb=max_memory_mb)


async def run_job(
    name: str,
    job: Mapping[str, object],
    *,
    timeout: float,
    max_memory_mb: int | None = None,
) -> Any:  # Any: JSON
    """Run a job of `process_child` in a new process; see `run_in_process`."""
    with child_pipes() as pipes:
        wanted, given = pipes.to_child(), pipes.from_child()
        child = ChildProcess.start(
            [
                sys.executable,
                "-I",
                str(_CHILD),
                str(GUARD),
                str(given.theirs),
                str(max_memory_mb or 0),
            ],
            name=f"tool {name}",
            pass_fds=(given.theirs,),
            stdin=wanted.theirs,
        )
    results = trio.lowlevel.FdStream(given.ours)
    jobs = trio.lowlevel.FdStream(wanted.ours)
    answer = b""
    in_time = False
    async with trio.open_nursery() as nursery, results:
        nursery.start_soon(child.run)
        nursery.start_soon(_send, jobs, json.dumps(job).encode())
        with trio.move_on_after(timeout):
            answer = await _receive(results)
            in_time = True
        nursery.cancel_scope.cancel()
    if not in_time:
        raise ToolTimeoutError(name, timeout)
    if len(answer) > _MAX_BYTES:
        megabytes = _MAX_BYTES // 1_000_000
        raise ToolCallError(
            name,
            f"gave a result of more than {megabytes} MB of JSON, which is more than "
            "its process may hand over: give a part of it, or the path of a file",
        )
    return _read_answer(name, child, answer)


async def _send(stream: trio.lowlevel.FdStream, data: bytes) -> None:
    async with stream:
        try:
            await stream.send_all(data)
        except trio.BrokenResourceError:
            return  # the child died before it read its job; its status says why


async def _receive(stream: trio.lowlevel.FdStream) -> bytes:
    """Read to the end, or until it is more than may come."""
    data = b""
    while len(data) <= _MAX_BYTES and (chunk := await stream.receive_some(_READ_BYTES)):
        data += chunk
    return data


def _read_answer(name: str, child: ChildProcess, answer: bytes) -> Any:  # Any: JSON
    if not answer:
        tail = child.stderr_tail[-1] if child.stderr_tail else ""
        raise ToolCrashedError(name, child.returncode or 0, tail)
    found = cast(dict[str, Any], json.loads(answer))  # Any: JSON
    if "error" in found:
        raise ToolFailedError(name, found["error"], found["text"])
    return found["result"]
