"""The processes of a pool: what they are asked, and whether they are gone."""

import os
from pathlib import Path
from typing import Any

import trio

from dspex.runtime import ActorRef
from dspex.runtime.bridge import (
    DspyCall,
    DspyPool,
)
from dspex.runtime.bridge.testing import no_model

HOSTED = Path(__file__).parent / "hosted"


MB = 1024 * 1024


async def is_whole(pool: ActorRef[DspyPool]) -> bool:
    """Whether it has its size, and its fork-server no other child, dead or alive."""
    pids = set(await pool.call(DspyPool.pids))
    try:
        servers = {parent_of(pid) for pid in pids}
    except OSError:
        return False
    return len(pids) >= 2 and [children_of(pid) for pid in servers] == [pids]


async def run(
    pool: ActorRef[DspyPool],
    function: str,
    *,
    timeout: float = 30,
    **inputs: Any,  # Any: whatever the function takes
) -> dict[str, Any]:
    call = DspyCall(module=f"hosted_faults:{function}", inputs=inputs, timeout=timeout)
    result = await pool.call(DspyPool.run, call, no_model, timeout=60)
    return result.outputs


def processes_with(mark: str) -> list[str]:
    """The command of every process that inherited `mark`; a zombie has none."""
    found: list[str] = []
    for path in Path("/proc").iterdir():
        if path.name.isdigit() and int(path.name) != os.getpid():
            try:
                environment = (path / "environ").read_bytes().decode(errors="replace")
                if mark in environment.split("\0"):
                    command = (path / "cmdline").read_bytes()
                    found.append(command.replace(b"\0", b" ").decode())
            except OSError:
                continue
    return found


def parent_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def children_of(pid: int) -> set[int]:
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    return {int(child) for child in children.split()}


def is_running(pid: int) -> bool:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"


async def gone(*pids: int) -> None:
    with trio.fail_after(10):
        while any(is_running(pid) for pid in pids):
            await trio.sleep(0.005)
