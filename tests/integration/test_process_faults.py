"""Process faults of a plan, on the real dspy processes of a runtime."""

from pathlib import Path

import pytest
import structlog.testing
import trio

from dspex.runtime.engine import Program, Step, StepOptions, StepTimeoutError
from dspex.testing import (
    Fault,
    FaultPlan,
    ScriptedLM,
    assert_no_repeated_effects,
    inject,
)
from dspex.worker.open_runtime import open_runtime

HERE = Path(__file__).parent

HOSTED = Program(
    name="hosted",
    steps={
        "reply": Step(
            module="dspy.Predict", backend="python", signature="ticket -> reply"
        )
    },
)


async def test_killed_stopped_and_leaking_dspy_processes_cost_no_run() -> None:
    lm = ScriptedLM(lambda _: '{"reply": "Thank you."}', delay=0.3)
    async with open_runtime(lm) as rt:
        assert (await rt.run(HOSTED, ticket="before")).status == "succeeded"
        for kind in ("kill", "leak", "stop"):
            fault = Fault(
                kind, on="process", target="*bridge/child.py*", after=0.1, seconds=0.5
            )
            with inject(rt.node, FaultPlan.of(fault)) as faults:
                ended = await rt.run(HOSTED, ticket=kind)
                with trio.fail_after(10):
                    while not faults.injected:
                        await trio.sleep(0.01)
            assert ended.status == "succeeded", (kind, ended.error)
            assert {it.kind for it in faults.injected} == {kind}
        assert (await rt.run(HOSTED, ticket="after")).status == "succeeded"
    # A call goes on when the process that asked for it dies.
    assert len(lm.requests) == 5
    assert_no_repeated_effects(lm.requests)


NATIVE = Program(
    name="native", steps={"reply": Step(module="Predict", signature="ticket -> reply")}
)


@pytest.mark.parametrize(
    ("supervisor", "program"), [("bridge", HOSTED), ("modules", NATIVE)]
)
async def test_the_supervisor_above_what_runs_a_step_may_end_too(
    supervisor: str, program: Program
) -> None:
    lm = ScriptedLM(lambda _: '{"reply": "Thank you."}')
    async with open_runtime(lm) as rt:
        assert (await rt.run(program, ticket="before")).status == "succeeded"
        above = rt.node.registry.whereis(supervisor)
        assert above is not None
        above.exit("kill")
        await above.wait_exit()
        with trio.fail_after(20):
            assert (await rt.run(program, ticket="after")).status == "succeeded"


async def test_a_step_that_floods_stdout_ends_at_its_own_deadline() -> None:
    step = Step(
        module="hosted_faults:flood",
        backend="python",
        signature="text -> flood",
        options=StepOptions(timeout=1.0),
    )
    program = Program(name="flood", steps={"flood": step})
    reply = ScriptedLM(lambda _: '{"reply": "Thank you."}')
    with structlog.testing.capture_logs() as logs:
        async with open_runtime(reply, search_path=[HERE / "hosted"]) as rt:
            ended = await rt.run(program, text="x")
            after = await rt.run(HOSTED, ticket="after")
    assert ended.error is not None
    assert isinstance(ended.error.__cause__, StepTimeoutError)
    assert after.status == "succeeded"
    assert sum(e["event"] == "child_output" for e in logs) <= 2_000
    assert sum(e["lines"] for e in logs if e["event"] == "child_output_dropped") > 0
