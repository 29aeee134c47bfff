"""Process faults of a plan, on the real dspy processes of a runtime."""

import trio

from dspex.runtime.engine import Program, Step
from dspex.testing import (
    Fault,
    FaultPlan,
    ScriptedLM,
    assert_no_repeated_effects,
    inject,
)
from dspex.worker.open_runtime import open_runtime

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
