"""Processes for dspy that do not come to be: too slow, or refused by the system."""

import os
import socket
import sys
from pathlib import Path

import pytest

from dspex.runtime import ActorRef, StartError, open_node
from dspex.runtime.bridge import DspyBridge, ForkFailedError, WorkerStartTimeoutError
from dspex.runtime.bridge.fork_server import ForkServer
from dspex.runtime.bridge.protocol import Limits


def interpreter(folder: Path, program: str) -> str:
    """Give a Python that begins with `program`."""
    path = folder / "python"
    path.write_text(f"#!{sys.executable}\n{program}")
    path.chmod(0o755)
    return str(path)


@pytest.mark.parametrize("kind", [DspyBridge, ForkServer])
async def test_a_process_that_is_not_ready_in_time_is_named_with_what_it_said(
    kind: type[DspyBridge] | type[ForkServer], tmp_path: Path
) -> None:
    slow = interpreter(
        tmp_path, "import time; print('still loading', flush=True); time.sleep(100)"
    )
    async with open_node() as node:
        with pytest.raises(StartError) as caught:
            await node.start(kind(python=slow, start_timeout=1.0), name="slow")
    reason = caught.value.reason
    assert isinstance(reason, WorkerStartTimeoutError)
    assert "was not ready within 1 s" in str(reason)
    assert reason.last_lines == ("still loading",)
    with pytest.raises(ProcessLookupError):
        os.kill(reason.pid, 0)


REFUSED = """
import os, runpy, sys

def refuse():
    raise BlockingIOError(11, "Resource temporarily unavailable")

os.fork = refuse
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


async def test_a_fork_that_the_system_refuses_fails_who_asked_and_no_more(
    tmp_path: Path,
) -> None:
    python = interpreter(tmp_path, REFUSED)
    async with open_node() as node:
        forks: ActorRef[ForkServer] = await node.start(
            ForkServer(python=python), name="forks"
        )
        ours, theirs = socket.socketpair()
        with ours, theirs:
            for _ in range(2):
                with pytest.raises(ForkFailedError, match="temporarily unavailable"):
                    await forks.call(ForkServer.fork, "x", theirs, Limits(), timeout=10)
        assert forks.is_alive
