"""The bridge with the real dspy in a real process."""

import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import structlog.testing
import trio

from dspex.runtime import ActorRef, CalleeExitedError, Node
from dspex.runtime.bridge import (
    DspyBridge,
    DspyCall,
    DspyResult,
    FrameTooLargeError,
    ModelHandler,
    RemoteError,
    UnsupportedValueError,
    WorkerDiedError,
)
from dspex.runtime.bridge.testing import no_model
from tests.integration.bridge_processes import is_running

USER_MODULE = '''
import os, subprocess, sys, time
import dspy

class Loud(dspy.Module):
    """Prints everywhere it can, around a prediction."""

    def __init__(self):
        self.predict = dspy.Predict("question -> answer")

    def forward(self, question):
        print("a print")
        os.write(1, b"a raw write\\n")
        sys.__stdout__.flush()
        subprocess.run(["echo", "from a grandchild"])
        return self.predict(question=question)

def die(how):
    os.kill(os.getpid(), how)
    time.sleep(60)

def leave(status):
    os._exit(status)

def fail(text):
    raise KeyError(text)

def pid():
    return {"pid": os.getpid()}

def grandchild():
    return {"pid": subprocess.Popen(["sleep", "600"]).pid}

def sleep(seconds):
    time.sleep(seconds)
    return {"slept": seconds}

def big(size):
    return {"text": "x" * size}

def odd():
    return {"thing": object()}
'''


def answer(text: str, **tokens: int) -> dict[str, Any]:
    usage = {
        "input_tokens": tokens.get("input_tokens", 10),
        "output_tokens": tokens.get("output_tokens", 5),
        "cached_tokens": 0,
        "reasoning_tokens": 0,
    }
    choice: dict[str, Any] = {"text": text, "tool_calls": [], "finish_reason": "stop"}
    return {"choices": [choice], "usage": usage, "model": "scripted"}


class Model:
    """Answers from a script and keeps the requests."""

    def __init__(self, *texts: str) -> None:
        self.texts = list(texts)
        self.requests: list[dict[str, Any]] = []

    async def __call__(self, request: dict[str, Any]) -> dict[str, Any]:
        await trio.lowlevel.checkpoint()
        self.requests.append(request)
        return answer(self.texts.pop(0))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "users.py").write_text(USER_MODULE)
    return tmp_path


@pytest.fixture
async def bridge(node: Node, folder: Path) -> ActorRef[DspyBridge]:
    return await node.start(DspyBridge(search_path=[folder]), name="dspy")


async def run(
    bridge: ActorRef[DspyBridge], call: DspyCall, model: ModelHandler
) -> DspyResult:
    return await bridge.call(DspyBridge.run, call, model, timeout=20)


async def eventually(claim: Callable[[], bool], seconds: float = 10.0) -> None:
    with trio.fail_after(seconds):
        while not claim():
            await trio.sleep(0.01)


async def test_predict_asks_the_parents_model(bridge: ActorRef[DspyBridge]) -> None:
    model = Model("[[ ## answer ## ]]\nParis\n\n[[ ## completed ## ]]")
    call = DspyCall(
        module="dspy.Predict",
        signature="question -> answer",
        instructions="Answer in one word.",
        demos=[{"question": "Capital of Italy?", "answer": "Rome"}],
        inputs={"question": "Capital of France?"},
        lm={"temperature": 0.5, "max_tokens": 77},
    )
    result = await run(bridge, call, model)
    assert result.outputs == {"answer": "Paris"}
    assert result.usage["input_tokens"] == 10
    assert result.usage["output_tokens"] == 5
    (request,) = model.requests
    assert request["temperature"] == 0.5
    assert request["max_tokens"] == 77
    roles = [message["role"] for message in request["messages"]]
    assert roles == ["system", "user", "assistant", "user"]
    assert "Answer in one word." in request["messages"][0]["content"]
    assert "Rome" in request["messages"][2]["content"]


async def test_typed_outputs_by_json_schema(bridge: ActorRef[DspyBridge]) -> None:
    model = Model('{"reasoning": "it says so", "urgency": "high", "count": 3}')
    call = DspyCall(
        module="dspy.ChainOfThought",
        signature="ticket -> urgency: Literal['low', 'high'], count: int",
        inputs={"ticket": "All is lost"},
        adapter="json",
    )
    result = await run(bridge, call, model)
    assert result.outputs == {"reasoning": "it says so", "urgency": "high", "count": 3}
    (request,) = model.requests
    schema = request["output_schema"]["schema"]
    assert list(schema["properties"]) == ["reasoning", "urgency", "count"]
    assert schema["properties"]["urgency"]["enum"] == ["low", "high"]


async def test_l1_runs_overlap_on_one_child(bridge: ActorRef[DspyBridge]) -> None:
    asked = trio.Event()
    both = 0

    async def together(request: dict[str, Any]) -> dict[str, Any]:
        nonlocal both
        both += 1
        if both == 2:
            asked.set()
        with trio.fail_after(10):
            await asked.wait()
        return answer("[[ ## answer ## ]]\nyes")

    call = DspyCall(
        module="dspy.Predict", signature="question -> answer", inputs={"question": "?"}
    )
    async with trio.open_nursery() as nursery:
        nursery.start_soon(run, bridge, call, together)
        nursery.start_soon(run, bridge, call, together)
    assert both == 2


async def test_prints_become_log_lines_and_corrupt_nothing(
    bridge: ActorRef[DspyBridge],
) -> None:
    model = Model("[[ ## answer ## ]]\nquiet")
    call = DspyCall(module="users:Loud", inputs={"question": "?"})
    with structlog.testing.capture_logs() as logs:
        result = await run(bridge, call, model)
        pid = await bridge.call(DspyBridge.pid)
        await eventually(lambda: len(logs) >= 3)
    assert result.outputs == {"answer": "quiet"}
    lines = {(entry.get("line"), entry["pid"]) for entry in logs}
    assert lines == {
        ("a print", pid),
        ("a raw write", pid),
        ("from a grandchild", pid),
    }


async def test_an_exception_arrives_with_its_traceback(
    bridge: ActorRef[DspyBridge],
) -> None:
    call = DspyCall(module="users:fail", inputs={"text": "nothing here"})
    with pytest.raises(RemoteError, match="KeyError: 'nothing here'") as caught:
        await run(bridge, call, no_model)
    assert caught.value.kind == "KeyError"
    assert 'users.py", line' in caught.value.remote_traceback


async def test_a_failed_model_call_is_the_cause(bridge: ActorRef[DspyBridge]) -> None:
    class RateLimitError(Exception):
        pass

    async def refuse(request: dict[str, Any]) -> dict[str, Any]:
        raise RateLimitError("slow down")

    call = DspyCall(
        module="dspy.Predict", signature="question -> answer", inputs={"question": "?"}
    )
    with pytest.raises(RemoteError, match="slow down") as caught:
        await run(bridge, call, refuse)
    assert caught.value.kind == "dspy.utils.exceptions.LMRateLimitError"
    assert isinstance(caught.value.__cause__, RateLimitError)


async def test_a_call_that_cannot_work_says_why(bridge: ActorRef[DspyBridge]) -> None:
    for module, message in (
        ("dspy.NoSuch", "'dspy.NoSuch': there is no 'NoSuch'"),
        ("predict", r"neither dspy\.NAME nor package\.module:attribute"),
        ("nowhere.at.all:f", r"no module 'nowhere\.at\.all' on the search path"),
        ("users:USER", "'users:USER': there is no 'USER'"),
        ("os:sep", "'os:sep' is a str, not callable"),
        ("users:sleep", "missing 1 required positional argument"),
        ("users:odd", r"output 'thing' of users:odd is a builtins\.object"),
    ):
        call = DspyCall(module=module, inputs={})
        with pytest.raises(RemoteError, match=message):
            await run(bridge, call, no_model)


async def test_too_large_either_way_is_refused_by_name_and_the_child_lives(
    bridge: ActorRef[DspyBridge],
) -> None:
    pid = await bridge.call(DspyBridge.pid)
    call = DspyCall(module="users:fail", inputs={"text": "x" * (65 * 1024 * 1024)})
    with pytest.raises(FrameTooLargeError, match=r"the inputs of users:fail"):
        await run(bridge, call, no_model)
    call = DspyCall(module="users:big", inputs={"size": 65 * 1024 * 1024})
    with pytest.raises(RemoteError, match="the result of users:big takes 68"):
        await run(bridge, call, no_model)
    call = DspyCall(module="users:pid", inputs={})
    result = await run(bridge, call, no_model)
    assert result.outputs == {"pid": pid}


async def test_an_input_that_does_not_travel_fails_only_its_caller(
    bridge: ActorRef[DspyBridge],
) -> None:
    call = DspyCall(module="users:fail", inputs={"text": object()})
    with pytest.raises(UnsupportedValueError, match="input 'text' of users:fail"):
        await run(bridge, call, no_model)
    assert bridge.is_alive


async def test_a_cancelled_callers_model_call_is_cancelled(
    bridge: ActorRef[DspyBridge],
) -> None:
    started, ended = trio.Event(), trio.Event()

    async def slow(request: dict[str, Any]) -> dict[str, Any]:
        started.set()
        try:
            await trio.sleep_forever()
        finally:
            ended.set()
        raise AssertionError

    call = DspyCall(
        module="dspy.Predict", signature="question -> answer", inputs={"question": "?"}
    )
    async with trio.open_nursery() as nursery:
        nursery.start_soon(run, bridge, call, slow)
        with trio.fail_after(10):
            await started.wait()
        nursery.cancel_scope.cancel()
    with trio.fail_after(1):
        await ended.wait()
    model = Model("[[ ## answer ## ]]\nnext")
    result = await run(bridge, call, model)
    assert result.outputs == {"answer": "next"}


async def test_the_childs_death_fails_every_caller_with_its_signal(
    bridge: ActorRef[DspyBridge],
) -> None:
    reasons: list[object] = []

    async def expect_death(call: DspyCall) -> None:
        with pytest.raises(CalleeExitedError) as caught:
            await run(bridge, call, no_model)
        reasons.append(caught.value.reason)

    async with trio.open_nursery() as nursery:
        sleeper = DspyCall(module="users:sleep", inputs={"seconds": 60})
        nursery.start_soon(expect_death, sleeper)
        nursery.start_soon(
            expect_death, DspyCall(module="users:die", inputs={"how": 11})
        )
    died = [r.signal for r in reasons if isinstance(r, WorkerDiedError)]
    assert died == ["SIGSEGV", "SIGSEGV"]


async def test_l6_a_killed_actor_leaves_no_process_behind(
    bridge: ActorRef[DspyBridge],
) -> None:
    pid = await bridge.call(DspyBridge.pid)
    call = DspyCall(module="users:grandchild", inputs={})
    result = await run(bridge, call, no_model)
    grandchild = result.outputs["pid"]
    assert isinstance(grandchild, int)
    assert is_running(pid)
    assert is_running(grandchild)
    bridge.exit("kill")
    await eventually(lambda: not is_running(pid) and not is_running(grandchild))


async def test_hosting_writes_no_file(node: Node, tmp_path: Path, folder: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    env = {"HOME": str(home), "TMPDIR": str(home), "XDG_CACHE_HOME": str(home)}
    program = f"""
        import trio
        from dspex.runtime import open_node
        from dspex.runtime.bridge import DspyBridge, DspyCall

        async def model(request):
            text = "[[ ## answer ## ]]\\nyes"
            choice = {{"text": text, "tool_calls": [], "finish_reason": "stop"}}
            names = "input_tokens output_tokens cached_tokens reasoning_tokens"
            usage = dict.fromkeys(names.split(), 1)
            return {{"choices": [choice], "usage": usage, "model": "m"}}

        async def main():
            async with open_node() as node:
                bridge = await node.start(DspyBridge(search_path=[{str(folder)!r}]))
                call = DspyCall(module="users:Loud", inputs={{"question": "?"}})
                print(await bridge.call(DspyBridge.run, call, model, timeout=20))

        trio.run(main)
    """
    done = await trio.run_process(
        [sys.executable, "-c", textwrap.dedent(program)],
        env={**os.environ, **env},
        cwd=home,
        capture_stdout=True,
        capture_stderr=True,
    )
    assert b"DspyResult" in done.stdout
    assert sorted(home.rglob("*")) == []
    assert [path.name for path in folder.iterdir() if path != home] == ["users.py"]


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
async def test_no_process_outlives_the_parent(
    number: signal.Signals, folder: Path
) -> None:
    program = f"""
        import trio
        from dspex.runtime import open_node
        from dspex.runtime.bridge import DspyBridge, DspyCall

        async def no_model(request):
            raise AssertionError

        async def main():
            async with open_node() as node:
                bridge = await node.start(DspyBridge(search_path=[{str(folder)!r}]))
                print(await bridge.call(DspyBridge.pid), flush=True)
                call = DspyCall(module="users:sleep", inputs={{"seconds": 600}})
                await bridge.call(DspyBridge.run, call, no_model, timeout=600)

        trio.run(main)
    """
    with subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(program)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    ) as parent:
        assert parent.stdout is not None
        lines = [parent.stdout.readline().decode()]
        while not lines[-1].strip().isdigit():
            lines.append(parent.stdout.readline().decode())
        pid = int(lines[-1])
        assert is_running(pid)
        parent.send_signal(number)
    await eventually(lambda: not is_running(pid), seconds=3)
