"""Whatever a hosted process does: a typed error, a pool at its size, nobody left."""

import dataclasses
import os
import signal
from functools import partial
from typing import Any

import pytest
import structlog
import structlog.testing
import trio
from structlog.typing import EventDict, Processor

from dspex.runtime import ActorRef, CalleeExitedError, Node
from dspex.runtime.bridge import (
    DspyCall,
    DspyPool,
    FrameTooLargeError,
    PoolSettings,
    ProtocolError,
    RemoteError,
    RunTimeoutError,
    WorkerDiedError,
)
from dspex.runtime.bridge.testing import ScriptedModel, fields, no_model
from tests.integration.bridge_processes import (
    HOSTED,
    MB,
    gone,
    parent_of,
    run,
)


@pytest.fixture
async def pool(robust_pool: ActorRef[DspyPool]) -> ActorRef[DspyPool]:
    return robust_pool


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
            while len([e for e in logs if e["event"] == "child_output"]) < 3:
                await trio.sleep(0.005)
    assert result.outputs == {"answer": "quiet"}
    pids = set(await pool.call(DspyPool.pids))
    lines = {e["line"] for e in logs if e["event"] == "child_output"}
    assert lines == {"a print", "a raw write", "from a grandchild"}
    assert {e["pid"] for e in logs if e["event"] == "child_output"} <= pids


async def test_what_a_process_prints_is_logged_as_its_callers(node: Node) -> None:
    settings = PoolSettings(max_size=1, spares=0)
    pool = await node.start(DspyPool(settings, search_path=[HOSTED]))
    lines: list[tuple[object, object]] = []

    def note(logger: object, method: str, event: EventDict) -> EventDict:
        lines.append((event.get("run"), event.get("line")))
        raise structlog.DropEvent

    async def say(name: str) -> None:
        with structlog.contextvars.bound_contextvars(run=name):
            for number in range(20):
                await run(pool, "say", text=f"{name} {number}")

    processors: list[Processor] = [structlog.contextvars.merge_contextvars, note]
    structlog.configure(processors=processors)
    try:
        async with trio.open_nursery() as nursery:
            for name in ("one", "two"):
                nursery.start_soon(say, name)
        with trio.fail_after(5):
            while sum(line is not None for _, line in lines) < 40:
                await trio.sleep(0.005)
    finally:
        structlog.reset_defaults()
    said = {(by, str(line).split()[0]) for by, line in lines if line is not None}
    assert said == {("one", "one"), ("two", "two")}


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
