"""ProgramModule: a program of steps as a module, to be evaluated and compiled."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeVar

import trio

from dspex.modules.adapters.values import to_plain
from dspex.modules.call import Call, TraceStep, current_call, outermost
from dspex.modules.errors import LMNotConfiguredError
from dspex.modules.fields import OutputField
from dspex.modules.hosted import HostedBackend
from dspex.modules.module import Module, Predictor
from dspex.modules.native import NativeBackend, signature_of
from dspex.modules.prediction import Prediction
from dspex.modules.signature import Signature
from dspex.providers.messages import Choice, Usage
from dspex.runtime.engine import (
    PLAIN,
    Backend,
    Codec,
    Effects,
    Engine,
    Plan,
    Program,
    Shape,
    Step,
    StepResult,
    make_plan,
)
from dspex.runtime.engine.effects import Json

T = TypeVar("T")

_NO_ANSWER: Final = Choice("")


class ProgramModule(Module):
    """Runs a program's graph here: no actor, each native step a module in `steps`.

    Optimizers see the predictors of native steps as `steps['NAME']`, and a step of the
    python backend as one predictor, which dspy hosts. `to_program` gives the program
    back, with the demos and instructions that the steps have by then.

    Raises:
        ProgramError: the program cannot be run as written.
    """

    def __init__(
        self, program: Program, *, native: NativeBackend, hosted: HostedBackend
    ) -> None:
        backends: dict[str, Backend] = {"native": native, "python": hosted}
        plan = make_plan(program, backends)
        self.steps: dict[str, Module] = {
            name: native.make(step)
            if step.backend == "native"
            else HostedStep(step, hosted)
            for name, step in program.steps.items()
        }
        before = {name: _instructions(it) for name, it in self.steps.items()}
        self._given = _Given(program, plan, before)

    @property
    def input_names(self) -> tuple[str, ...]:
        """What the program takes."""
        return tuple(self._given.plan.inputs)

    @property
    def output_names(self) -> tuple[str, ...]:
        """What the program gives."""
        return tuple(self._given.plan.outputs)

    async def forward(self, /, **inputs: Any) -> Prediction:  # Any: as declared
        """Run every step, as soon as its inputs are there.

        Raises:
            RunInputError: the inputs are not the program's.
            StepFailedError: a step failed; its cause says why.
        """
        here = _Here(self.steps)
        plan = self._given.plan
        engine = Engine({"native": here, "python": here})
        run = await engine.run(plan, plan.check_inputs(inputs))
        usage = sum((Usage(**dict(it.usage)) for it in run.steps), start=Usage())
        return Prediction(**run.outputs).replace(usage=usage)

    def to_program(self) -> Program:
        """Give the program with the steps' demos and instructions.

        Steps that are made of several predictors stay as they are.
        """
        program, before = self._given.program, self._given.instructions
        steps = {
            name: _updated(step, self.steps[name], before[name])
            for name, step in program.steps.items()
        }
        return program.model_copy(update={"steps": steps})


@dataclass(frozen=True, slots=True)
class _Given:
    """The program, its plan and its steps' instructions, which `copy` shares."""

    program: Program
    plan: Plan
    instructions: Mapping[str, str | None]


class HostedStep(Predictor):
    """A step that dspy runs in its own process, as a predictor."""

    def __init__(self, step: Step, backend: HostedBackend) -> None:
        self.step = step
        self.signature = _with_added(step, backend.shape(step))
        self.demos = step.demos
        self.settings = {}
        self.lm = None
        self._backend = backend
        self._instructions = self.signature.instructions

    async def forward(self, /, **inputs: Any) -> Prediction:  # Any: as declared
        """Have dspy run the step; its model calls are made here.

        Raises:
            LMNotConfiguredError: there is no model.
            DspexError: whatever the step fails with.
        """
        call = current_call()
        lm = self.lm or (None if call is None else call.lm)
        if call is None or lm is None:
            raise LMNotConfiguredError(f"step {self.step.module}")
        backend = self._backend.with_lm(lm)
        step = _updated(self.step, self, self._instructions)
        # The pool is started when the first step asks for it.
        await self._backend.prepare("", step)
        deadline = trio.current_time() + step.options.timeout
        result = await backend.run(
            "", step, inputs, effects=_CallEffects(call), deadline=deadline
        )
        usage = Usage(**result.usage)
        prediction = Prediction.of([dict(result.outputs)], usage=usage)
        key = call.memory.key(f"{self.step.module} {sorted(inputs.items())!r}")
        call.memory.trace.append(
            TraceStep(self, dict(inputs), prediction, key, _NO_ANSWER)
        )
        return prediction


class _Here:
    """Runs steps on modules of this process; each as a run of its own."""

    def __init__(self, steps: Mapping[str, Module]) -> None:
        self._steps = steps

    def shape(self, step: Step) -> Shape:
        """Never asked: the plan is there already."""
        raise NotImplementedError

    async def prepare(self, name: str, step: Step) -> None:
        """Nothing to do: there is no actor."""

    async def release(self, name: str, step: Step) -> None:
        """Nothing to do, as above."""

    async def run(
        self,
        name: str,
        step: Step,
        inputs: Mapping[str, Any],  # Any: whatever the signature says
        *,
        effects: Effects,
        deadline: float,
    ) -> StepResult:
        """Run the step's module, on the model and effects of the call around it."""
        call = current_call()
        lm, around = (None, None) if call is None else (call.lm, call.effects)
        module = self._steps[name.rpartition("/")[2]]
        with outermost():
            prediction = await module.run(inputs, lm=lm, effects=around)
        return StepResult(prediction.outputs, prediction.usage.to_json())


class _CallEffects(Effects):
    """The effects of a module's call, as a backend asks for them."""

    def __init__(self, call: Call) -> None:
        self._call = call

    async def perform(
        self,
        fingerprint: str,
        call: Callable[[], Awaitable[T]],
        *,
        codec: Codec[T] = PLAIN,
        request: Callable[[], Json] | None = None,
    ) -> T:
        """Make the call through the effects of the module's call, if it has any."""
        if self._call.effects is None:
            return await call()
        return await self._call.effects.perform(fingerprint, call)


def _instructions(module: Module) -> str | None:
    """Give the instructions of a module's only predictor."""
    predictors = module.predictors
    return predictors[0].signature.instructions if len(predictors) == 1 else None


def _updated(step: Step, module: Module, before: str | None) -> Step:
    """Give the step with the demos of its module's predictor, and new instructions."""
    predictors = module.predictors
    if len(predictors) != 1:
        return step
    (predictor,) = predictors
    fields = predictor.signature.fields
    demos = tuple(
        {name: to_plain(value) for name, value in demo.items() if name in fields}
        for demo in predictor.demos
    )
    update: dict[str, object] = {"demos": demos}
    if predictor.signature.instructions != before:
        update["instructions"] = predictor.signature.instructions
    return step.model_copy(update=update)


def _with_added(step: Step, shape: Shape) -> Signature:
    """Give the step's signature with the outputs that dspy's module adds."""
    signature = signature_of(step)
    for name, type_ in shape.outputs.items():
        if name not in signature.output_fields:
            signature = signature.prepend(name, OutputField(), type_)
    return signature
