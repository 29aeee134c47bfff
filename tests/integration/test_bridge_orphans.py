"""The parent ends in any way, and nobody is left, grandchildren included."""

import os
import re
import signal
import subprocess
import sys
import textwrap

import pytest
import trio

from tests.integration.bridge_processes import HOSTED, gone, is_running, parent_of

ORPHAN_ROUNDS = int(os.environ.get("DSPEX_ORPHAN_ROUNDS", "2"))


PARENT = f"""
    import sys, trio
    from dspex.runtime import open_node
    from dspex.runtime.bridge import DspyCall, DspyPool
    from dspex.runtime.bridge.testing import no_model

    async def main(end):
        async with open_node() as node:
            pool = await node.start(DspyPool(search_path=[{str(HOSTED)!r}]))
            call = DspyCall(module="hosted_faults:grandchildren", inputs={{}})
            result = await pool.call(DspyPool.run, call, no_model, timeout=30)
            print(*await pool.call(DspyPool.pids), *result.outputs["pids"], flush=True)
            if end == "exception":
                raise RuntimeError("on purpose")
            if end == "wait":
                call = DspyCall(module="hosted_faults:spin_in_c", inputs={{}})
                await pool.call(DspyPool.run, call, no_model, timeout=600)

    trio.run(main, sys.argv[1])
"""


def start_parent(end: str) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(PARENT), end],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )


def pids_of(parent: "subprocess.Popen[bytes]") -> list[int]:
    assert parent.stdout is not None
    for line in parent.stdout:
        if re.fullmatch(rb"[\d ]+\n", line):
            return [int(pid) for pid in line.split()]
    raise AssertionError("the parent ended before it had its processes")


@pytest.mark.usefixtures("strays")
@pytest.mark.parametrize(
    ("end", "number"),
    [
        ("normal", None),
        ("exception", None),
        ("wait", signal.SIGINT),
        ("wait", signal.SIGTERM),
        *[("wait", signal.SIGKILL)] * ORPHAN_ROUNDS,
    ],
)
async def test_c6_l5_l11_no_process_outlives_the_parent(
    end: str, number: signal.Signals | None
) -> None:
    with start_parent(end) as parent:
        pids = await trio.to_thread.run_sync(pids_of, parent)
        assert len(pids) >= 5
        if number is not None:
            assert all(is_running(pid) for pid in pids)
            await trio.sleep(0.05)
            parent.send_signal(number)
        await trio.to_thread.run_sync(parent.wait)
    await gone(*pids)


@pytest.mark.usefixtures("strays")
async def test_c6_kill_9_of_the_parent_and_of_its_fork_server() -> None:
    with start_parent("wait") as parent:
        pids = await trio.to_thread.run_sync(pids_of, parent)
        server = parent_of(pids[0])
        parent.kill()
        os.kill(server, signal.SIGKILL)
    # What a worker had started itself needs the fork-server: only workers are safe.
    await gone(server, *pids[:2])
    for pid in pids[2:]:
        os.kill(pid, signal.SIGKILL) if is_running(pid) else None
