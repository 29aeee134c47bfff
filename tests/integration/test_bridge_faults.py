"""Whatever a hosted process does: a typed error, a pool at its size, nobody left."""

import contextlib
import dataclasses
import os
import re
import signal
import subprocess
import sys
import textwrap
import time
import uuid
from collections.abc import AsyncIterator, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import structlog.testing
import trio

from dspex.runtime import ActorRef, CalleeExitedError, Node, StartError, open_node
from dspex.runtime.bridge import (
    DspyCall,
    DspyPool,
    FrameTooLargeError,
    Limits,
    PoolSettings,
    ProtocolError,
    RemoteError,
    RunTimeoutError,
    WorkerDiedError,
)
from dspex.runtime.bridge.testing import ScriptedModel, fields, no_model

HOSTED = Path(__file__).parent / "hosted"
MB = 1024 * 1024
ORPHAN_ROUNDS = int(os.environ.get("DSPEX_ORPHAN_ROUNDS", "2"))


@pytest.fixture
def strays(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Check that a test leaves no process behind, wherever it may hang."""
    mark = f"DSPEX_TEST={uuid.uuid4()}"
    monkeypatch.setenv(*mark.split("="))
    yield
    deadline = time.monotonic() + 3
    while processes_with(mark) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert processes_with(mark) == []


@pytest.fixture
async def node(strays: None) -> AsyncIterator[Node]:
    async with open_node() as node:
        yield node


@pytest.fixture
async def pool(node: Node) -> AsyncIterator[ActorRef[DspyPool]]:
    settings = PoolSettings(max_size=4, limits=Limits(processes=8))
    ref = await node.start(DspyPool(settings, search_path=[HOSTED]), name="pool")
    yield ref
    # Whatever happened: it works, has its size, and no zombie.
    assert await run(ref, "length", text="abc") == {"length": 3}
    with trio.fail_after(10):
        while not await is_whole(ref):
            await trio.sleep(0.02)


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
    with trio.fail_after(3):
        while any(is_running(pid) for pid in pids):
            await trio.sleep(0.005)


async def end_of(
    pool: ActorRef[DspyPool], function: str, **inputs: Any
) -> str:  # Any: whatever the function takes
    """Run what cannot end well and say how it ended."""
    try:
        outputs = await run(pool, function, **inputs)
    except CalleeExitedError as error:
        reason = error.reason
        assert isinstance(reason, WorkerDiedError)
        return reason.signal or f"status {reason.status}"
    except (RunTimeoutError, RemoteError) as error:
        return type(error).__name__
    return f"outputs {outputs}"


async def test_every_death_is_told_and_fails_only_its_run(
    pool: ActorRef[DspyPool],
) -> None:
    ends: dict[str, str] = {}

    async def note(label: str, function: str, **inputs: Any) -> None:
        ends[label] = await end_of(pool, function, **inputs)

    async with trio.open_nursery() as nursery:
        for start in (
            partial(note, "killed", "raise_signal", number=int(signal.SIGKILL)),
            partial(note, "segv", "raise_signal", number=int(signal.SIGSEGV)),
            partial(note, "terminated", "raise_signal", number=int(signal.SIGTERM)),
            partial(note, "native crash", "crash_in_c"),
            partial(note, "left with 3", "leave", status=3),
            partial(note, "left with 0", "leave", status=0),
            partial(note, "half a frame", "send_half_a_frame"),
            partial(note, "loop", "spin", timeout=0.5),
            partial(note, "loop in C", "spin_in_c", timeout=0.5),
            partial(note, "deaf to SIGTERM", "deaf", timeout=0.5),
            partial(
                note, "stopped", "raise_signal", number=int(signal.SIGSTOP), timeout=0.5
            ),
            partial(note, "bystander", "sleep", seconds=0.5),
        ):
            nursery.start_soon(start)
    assert ends == {
        "killed": "SIGKILL",
        "segv": "SIGSEGV",
        "terminated": "SIGTERM",
        "native crash": "SIGSEGV",
        "left with 3": "status 3",
        "left with 0": "status 0",
        "half a frame": "status 0",
        "loop": "RunTimeoutError",
        "loop in C": "RunTimeoutError",
        "deaf to SIGTERM": "RunTimeoutError",
        "stopped": "RunTimeoutError",
        "bystander": "outputs {'slept': 0.5}",
    }


async def test_c5_garbage_kills_the_process_that_sent_it(
    pool: ActorRef[DspyPool],
) -> None:
    for function in ("send_garbage", "send_unknown_message"):
        with pytest.raises(CalleeExitedError) as caught:
            await run(pool, function)
        assert isinstance(caught.value.reason, ProtocolError)


async def test_c5_wrong_ids_disturb_nobody(pool: ActorRef[DspyPool]) -> None:
    with structlog.testing.capture_logs() as logs:
        assert await run(pool, "send_wrong_ids") == {"sent": True}
    unknown = [entry for entry in logs if entry["event"] == "dspy_unknown_run"]
    assert [entry["run"] for entry in unknown] == [999_999, 999_999]


async def test_c5_a_call_under_a_number_in_use_is_the_end(
    pool: ActorRef[DspyPool],
) -> None:
    call = DspyCall(
        module="hosted_faults:ask_twice_under_one_number", inputs={"run": 1}
    )
    model = ScriptedModel("never", seconds=60)
    with pytest.raises(CalleeExitedError) as caught:
        await pool.call(DspyPool.run, call, model, timeout=30)
    assert isinstance(caught.value.reason, ProtocolError)
    assert "call 7 is under way already" in str(caught.value.reason)


async def test_c5_prints_become_log_lines(pool: ActorRef[DspyPool]) -> None:
    call = DspyCall(module="hosted_faults:Loud", inputs={"question": "?"})
    model = ScriptedModel(fields(answer="quiet"))
    with structlog.testing.capture_logs() as logs:
        result = await pool.call(DspyPool.run, call, model, timeout=30)
        with trio.fail_after(5):
            while len([e for e in logs if e["event"] == "child_stderr"]) < 3:
                await trio.sleep(0.005)
    assert result.outputs == {"answer": "quiet"}
    pids = set(await pool.call(DspyPool.pids))
    lines = {e["line"] for e in logs if e["event"] == "child_stderr"}
    assert lines == {"a print", "a raw write", "from a grandchild"}
    assert {e["pid"] for e in logs if e["event"] == "child_stderr"} <= pids


async def test_c5_a_frame_too_large_is_refused_by_name(
    pool: ActorRef[DspyPool],
) -> None:
    with pytest.raises(FrameTooLargeError, match="the inputs of hosted_faults:length"):
        await run(pool, "length", text="x" * (65 * MB))
    with pytest.raises(RemoteError, match=r"the result of hosted_faults:big takes 68"):
        await run(pool, "big", size=65 * MB)


async def test_a_large_frame_passes_both_ways(pool: ActorRef[DspyPool]) -> None:
    assert await run(pool, "length", text="x" * (20 * MB)) == {"length": 20 * MB}
    assert len((await run(pool, "big", size=20 * MB))["text"]) == 20 * MB


async def test_a_process_that_reads_nothing_delays_nobody(
    pool: ActorRef[DspyPool],
) -> None:
    async def ask(function: str, **inputs: object) -> dict[str, Any]:
        call = DspyCall(
            module=f"hosted_faults:{function}",
            inputs=inputs,
            session="the deaf one's",
            timeout=1.0,
        )
        result = await pool.call(DspyPool.run, call, no_model, timeout=20)
        return result.outputs

    os.kill((await ask("pid"))["pid"], signal.SIGSTOP)

    async def send_much() -> None:
        with pytest.raises(RunTimeoutError):
            await ask("length", text="x" * (20 * MB))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(send_much)
        with trio.fail_after(5):
            while (await pool.call(DspyPool.statistics)).busy == 0:
                await trio.sleep(0.001)
        for _ in range(20):
            await run(pool, "pid", timeout=20)


async def test_a_fork_bomb_is_refused(pool: ActorRef[DspyPool]) -> None:
    with pytest.raises(RemoteError, match="this worker may have 8 processes"):
        await run(pool, "fork_bomb")


async def test_a_memory_bomb_is_refused(node: Node) -> None:
    settings = PoolSettings(spares=0, limits=Limits(memory_bytes=200 * MB))
    pool = await node.start(DspyPool(settings, search_path=[HOSTED]))
    with pytest.raises(RemoteError, match="MemoryError"):
        await run(pool, "memory_bomb")
    assert await run(pool, "length", text="abc") == {"length": 3}


async def test_a_process_without_memory_for_another_run_says_so(
    node: Node, tmp_path: Path
) -> None:
    limits = Limits(memory_bytes=200 * MB)
    settings = PoolSettings(max_size=1, spares=0, concurrency=11, limits=limits)
    pool = await node.start(DspyPool(settings, search_path=[HOSTED]))
    note = tmp_path / "note"
    async with trio.open_nursery() as nursery:
        nursery.start_soon(
            partial(run, pool, "hold_all_memory", seconds=60, note=str(note))
        )
        with trio.fail_after(10):
            while not (note.exists() and note.read_text()):
                await trio.sleep(0.01)
        # The first ones may find the stacks of threads that have ended.
        refused = pytest.RaisesExc(RemoteError, match="new thread")
        with trio.fail_after(10), pytest.RaisesGroup(refused):
            async with trio.open_nursery() as threads:
                for _ in range(10):
                    threads.start_soon(partial(run, pool, "sleep", seconds=60))
                    await trio.sleep(0.05)
        nursery.cancel_scope.cancel()


async def test_too_much_cpu_is_the_end(node: Node) -> None:
    settings = PoolSettings(spares=0, limits=Limits(cpu_seconds=1))
    pool = await node.start(DspyPool(settings, search_path=[HOSTED]))
    with pytest.raises(CalleeExitedError) as caught:
        await run(pool, "spin_in_c")
    assert isinstance(caught.value.reason, WorkerDiedError)
    assert caught.value.reason.signal == "SIGXCPU"


async def test_any_exception_arrives(pool: ActorRef[DspyPool]) -> None:
    for function, message in (
        ("unprintable", r"Unprintable: \(its message cannot be made: RuntimeError\)"),
        ("unicode_error", r"ValueError: half a character: \\ud800"),
        ("odd", "output 'thing' of hosted_faults:odd is a builtins.object"),
        ("sleep", "missing 1 required positional argument: 'seconds'"),
    ):
        with pytest.raises(RemoteError, match=message) as caught:
            await run(pool, function)
        assert "Traceback (most recent call last)" in caught.value.remote_traceback


async def test_what_a_run_started_ends_with_its_process(
    pool: ActorRef[DspyPool],
) -> None:
    outputs = await run(pool, "grandchildren")
    for pid in await pool.call(DspyPool.pids):
        os.kill(pid, signal.SIGKILL)
    await gone(*outputs["pids"])
    with trio.fail_after(5):
        while (await pool.call(DspyPool.statistics)).died < 2:
            await trio.sleep(0.01)


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
        pytest.param("time.sleep(600)", 1, id="mute"),
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


async def test_a_fork_server_killed_during_runs_fails_them_and_comes_back(
    pool: ActorRef[DspyPool],
) -> None:
    ends: list[str] = []

    async def note() -> None:
        ends.append(await end_of(pool, "sleep", seconds=60))

    async with trio.open_nursery() as nursery:
        for _ in range(2):
            nursery.start_soon(note)
        with trio.fail_after(10):
            while (await pool.call(DspyPool.statistics)).busy < 2:
                await trio.sleep(0.01)
        os.kill(parent_of((await pool.call(DspyPool.pids))[0]), signal.SIGKILL)
    assert ends == ["SIGKILL", "SIGKILL"]
    assert (await pool.call(DspyPool.statistics)).failed == 2
    # From when this is known nothing goes to a process that it takes along.
    with trio.fail_after(10):
        while (await pool.call(DspyPool.statistics)).fork_server_restarts == 0:
            await trio.sleep(0.001)


async def test_l9_no_key_gets_into_a_log_or_an_error(pool: ActorRef[DspyPool]) -> None:
    key = "sk-secret-0123456789abcdef"
    call = DspyCall(
        module="hosted_faults:leave",
        inputs={"status": 3},
        own_model="openai/gpt-4o-mini",
        lm={"api_key": key},
    )
    with structlog.testing.capture_logs() as logs:
        with pytest.raises(CalleeExitedError) as died:
            await pool.call(DspyPool.run, call, no_model, timeout=30)
        wrong = dataclasses.replace(
            call, module="dspy.Predict", signature="question -> answer", inputs={}
        )
        wrong = dataclasses.replace(wrong, lm={"api_key": key, "num_retries": -1})
        with pytest.raises(RemoteError) as failed:
            await pool.call(DspyPool.run, wrong, no_model, timeout=30)
        with trio.fail_after(5):
            while not any(e["event"] == "dspy_process_ended" for e in logs):
                await trio.sleep(0.01)
    told = [*logs, died.value, died.value.reason, failed.value]
    assert key not in repr(told) + failed.value.remote_traceback
    assert "num_retries must be" in str(failed.value)


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


# C6: the parent ends in any way, and nobody is left, grandchildren included.

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
