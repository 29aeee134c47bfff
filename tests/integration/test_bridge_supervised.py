"""The bridge under a supervisor, and the real process killed from outside."""

import os
import signal
from typing import Any

import pytest
import trio

from dspex.runtime import ActorRef, CalleeExitedError, open_node
from dspex.runtime.bridge import DspyBridge, DspyCall, WorkerDiedError
from dspex.supervisors import ChildSpec, Supervisor

CALL = DspyCall(
    module="dspy.Predict", signature="question -> answer", inputs={"question": "?"}
)


async def model(request: dict[str, Any]) -> dict[str, Any]:
    await trio.lowlevel.checkpoint()
    names = ("input_tokens", "output_tokens", "cached_tokens", "reasoning_tokens")
    text = "[[ ## answer ## ]]\nyes"
    choice: dict[str, Any] = {"text": text, "tool_calls": [], "finish_reason": "stop"}
    return {"choices": [choice], "usage": dict.fromkeys(names, 1), "model": "m"}


async def test_after_kill_9_the_next_call_is_answered_by_a_new_process() -> None:
    spec = ChildSpec("dspy", DspyBridge, name="dspy", restart="permanent")
    async with open_node() as node:
        await node.start(Supervisor([spec], strategy="one_for_one"), name="root")
        first: ActorRef[DspyBridge] | None = node.registry.whereis("dspy")
        assert first is not None
        pid = await first.call(DspyBridge.pid)

        async def kill_while_asked(request: dict[str, Any]) -> dict[str, Any]:
            os.kill(pid, signal.SIGKILL)
            return await model(request)

        with pytest.raises(CalleeExitedError) as caught:
            await first.call(DspyBridge.run, CALL, kill_while_asked, timeout=20)
        reason = caught.value.reason
        assert isinstance(reason, WorkerDiedError)
        assert (reason.pid, reason.signal) == (pid, "SIGKILL")

        second: ActorRef[DspyBridge] = await node.registry.wait_for("dspy", timeout=30)
        result = await second.call(DspyBridge.run, CALL, model, timeout=20)
        assert result.outputs == {"answer": "yes"}
        assert await second.call(DspyBridge.pid) != pid
