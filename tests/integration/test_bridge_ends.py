"""Processes that die as they start or as they end, and pools that end with them."""

import contextlib
import os
import signal
import sys
from functools import partial
from pathlib import Path

import pytest
import structlog.testing
import trio

from dspex.runtime import ActorRef, CalleeExitedError, Node, StartError, open_node
from dspex.runtime.bridge import (
    DspyBridge,
    DspyPool,
    PoolSettings,
    ProtocolError,
    WorkerDiedError,
)
from tests.integration.bridge_processes import (
    HOSTED,
    gone,
    parent_of,
    run,
)


async def test_l3_a_child_that_cannot_start_shows_its_last_lines(
    node: Node, tmp_path: Path
) -> None:
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\necho wrong libc >&2\nexit 7\n")
    python.chmod(0o755)
    with pytest.raises(StartError) as caught:
        await node.start(DspyBridge(python=str(python)))
    reason = caught.value.reason
    assert isinstance(reason, WorkerDiedError)
    assert reason.status == 7
    assert reason.last_lines == ("wrong libc",)


@pytest.mark.parametrize(
    "script",
    [
        pytest.param("echo broken >&2; exit 7", id="exit"),
        pytest.param("kill -SEGV $$", id="signal"),
        pytest.param(
            f"exec {sys.executable} -c 'import socket, sys;"
            ' socket.socket(fileno=int(sys.argv[3])).send(b"GET /")\' "$@"',
            id="garbage",
        ),
    ],
)
async def test_a_crash_during_start_fails_the_start(
    script: str, node: Node, tmp_path: Path
) -> None:
    python = tmp_path / "python"
    python.write_text(f"#!/bin/sh\n{script}\n")
    python.chmod(0o755)
    with pytest.raises(StartError) as caught:
        await node.start(DspyPool(python=str(python)))
    assert isinstance(caught.value.reason, StartError)
    reason = caught.value.reason.reason
    assert isinstance(reason, WorkerDiedError | ProtocolError)


async def test_an_import_of_dspy_has_as_long_as_the_settings_say(
    node: Node, tmp_path: Path
) -> None:
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\nexec sleep 600\n")
    python.chmod(0o755)
    settings = PoolSettings(start_timeout=0.5)
    with trio.fail_after(20), pytest.raises(StartError) as caught:
        await node.start(DspyPool(settings, python=str(python)))
    assert "was not ready within 0.5 s" in str(caught.value)


# A Python that dies, or is mute, where `os.setsid` is called: in a fresh fork, before
# it has said hello. It does so from the second fork on, and as often as it is told.
SITE = """
import os, pathlib, signal, time
setsid = os.setsid
def fail():
    count = pathlib.Path(os.environ["FORKS"])
    with count.open("a") as file:
        file.write("x")
    if 1 < len(count.read_text()) <= 1 + int(os.environ["FAILURES"]):
        {fail}
    setsid()
os.setsid = fail
"""


def failing_python(folder: Path, fail: str, failures: int) -> str:
    (folder / "sitecustomize.py").write_text(SITE.replace("{fail}", fail))
    python = folder / "python"
    python.write_text(
        f"#!/bin/sh\nexport FORKS={folder}/forks FAILURES={failures} "
        f'PYTHONPATH={folder}\nexec {sys.executable} "$@"\n'
    )
    python.chmod(0o755)
    return str(python)


@pytest.mark.parametrize(
    ("fail", "start_timeout"),
    [
        pytest.param("os.kill(os.getpid(), signal.SIGKILL)", 30, id="killed"),
        pytest.param("raise RuntimeError('no session')", 30, id="exception"),
        pytest.param("time.sleep(600)", 5, id="mute"),
    ],
)
async def test_a_crash_during_the_handshake_is_tried_again(
    fail: str, start_timeout: float, node: Node, tmp_path: Path
) -> None:
    settings = PoolSettings(spares=0, start_timeout=start_timeout)
    python = failing_python(tmp_path, fail, failures=1)
    server = DspyPool(settings, python=python, search_path=[HOSTED])
    pool = await node.start(server)
    # The second process fails; whoever waits for it gets the third.
    async with trio.open_nursery() as nursery:
        nursery.start_soon(partial(run, pool, "sleep", seconds=60))
        with trio.fail_after(20):
            while not (await pool.call(DspyPool.statistics)).busy:
                await trio.sleep(0.01)
            await run(pool, "pid")
        nursery.cancel_scope.cancel()
    assert (tmp_path / "forks").read_text() == "xxx"


async def test_a_process_that_always_dies_in_its_handshake_ends_the_pool(
    node: Node, tmp_path: Path
) -> None:
    python = failing_python(tmp_path, "os._exit(3)", failures=100)
    settings = PoolSettings(spares=0)
    server = DspyPool(settings, python=python, search_path=[HOSTED])
    pool = await node.start(server)
    ended: list[object] = []

    async def wait() -> None:
        with pytest.raises(CalleeExitedError) as caught:
            await run(pool, "spin")
        ended.append(caught.value.reason)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait)
        nursery.start_soon(wait)
    assert not pool.is_alive
    # One had the first process, which the fork-server took along.
    kinds = sorted(type(reason).__name__ for reason in ended)
    assert kinds == ["StartError", "WorkerDiedError"]


@pytest.mark.parametrize("victims", ["workers", "both"])
async def test_a_crash_during_shutdown_leaves_nobody(
    victims: str, strays: None
) -> None:
    settings = PoolSettings(min_size=3)
    async with trio.open_nursery() as nursery:
        async with open_node() as node:
            pool = await node.start(DspyPool(settings, search_path=[HOSTED]))
            for function in ("deaf", "spin_in_c"):
                nursery.start_soon(expect_end, pool, function)
            await trio.sleep(0.3)
            workers = await pool.call(DspyPool.pids)
            server = parent_of(workers[0])
            began = trio.current_time()
            pool.exit("shutdown")
            await trio.sleep(0.05)
            assert pool.is_alive  # it waits for the deaf one
            for pid in {"workers": workers, "both": [*workers, server]}[victims]:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        assert trio.current_time() - began < 3
    await gone(server, *workers)


async def test_a_pool_that_stops_while_it_grows_reports_no_crash(strays: None) -> None:
    async def sleep(pool: ActorRef[DspyPool]) -> None:
        with pytest.raises(CalleeExitedError):
            await run(pool, "sleep", seconds=60)

    settings = PoolSettings(max_size=4, spares=0)
    with structlog.testing.capture_logs() as logs:
        for seconds in (0.001, 0.005, 0.02):
            async with trio.open_nursery() as nursery, open_node() as node:
                pool = await node.start(DspyPool(settings, search_path=[HOSTED]))
                for _ in range(4):  # three more processes are started for them
                    nursery.start_soon(sleep, pool)
                await trio.sleep(seconds)
    assert [it for it in logs if it["event"] == "actor_crashed"] == []


async def test_a_pool_full_of_stuck_processes_stops_in_time(strays: None) -> None:
    async with trio.open_nursery() as nursery:
        async with open_node() as node:
            pool = await node.start(DspyPool(search_path=[HOSTED]))
            for function in ("spin_in_c", "deaf", "spin"):
                nursery.start_soon(expect_end, pool, function)
            await trio.sleep(0.5)
            began = trio.current_time()
        assert trio.current_time() - began < 3


async def expect_end(pool: ActorRef[DspyPool], function: str) -> None:
    with pytest.raises(CalleeExitedError):
        await run(pool, function, timeout=60)
