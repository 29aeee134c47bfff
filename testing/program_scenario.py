"""A program as a scenario: run it under a plan, and say what must hold then."""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Protocol, cast

from dspex.modules import Module
from dspex.providers import LM, Request
from dspex.runtime.engine import Program
from dspex.testing.fault_plan import FaultPlan
from dspex.testing.faults import inject
from dspex.testing.invariants import (
    assert_every_caller_answered,
    assert_no_repeated_effects,
)
from dspex.testing.model_faults import FaultyLM
from dspex.worker.open_runtime import open_runtime


class _Recording(Protocol):
    @property
    def requests(self) -> list[Request]: ...


def program_scenario(
    program: Program,
    *,
    lm: Callable[[], LM],
    inputs: Mapping[str, Any],  # Any: as the signatures declare
    modules: Mapping[str, Callable[[], Module]] | None = None,
) -> Callable[[FaultPlan], Awaitable[object]]:
    """Give a scenario that runs a program once, on a runtime and a model of its own.

    `modules` are the runtime's: programs as code, by the name of a step's `module`.
    It fails when the run does, gives other outputs than without faults, leaves a
    caller waiting, or makes a model call twice. The last is looked at when the model
    has `requests` (a `ScriptedLM` has) and the plan does no harm to model calls.
    """
    calm: list[Mapping[str, Any]] = []  # Any: as above

    async def scenario(plan: FaultPlan) -> None:
        if not calm:
            calm.append(await outputs_under(FaultPlan()))
        outputs = await outputs_under(plan)
        if outputs != calm[0]:
            raise AssertionError(
                f"the outputs are {dict(outputs)!r}; without faults they are "
                f"{dict(calm[0])!r}"
            )

    async def outputs_under(plan: FaultPlan) -> Mapping[str, Any]:  # Any: as above
        model = lm()
        async with open_runtime(FaultyLM(model, plan), modules=modules) as runtime:
            await runtime.load(program)
            with inject(runtime.node, plan) as faults:
                run = await runtime.run_inputs(program, inputs)
            assert_every_caller_answered(faults)
        if hasattr(model, "requests") and all(it.on != "model" for it in plan.faults):
            assert_no_repeated_effects(cast("_Recording", model).requests)
        return run.outputs

    return scenario
