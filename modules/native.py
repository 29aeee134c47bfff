"""NativeBackend: steps that run on module actors."""

from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, Final

import trio

from dspex.modules.actor import ModuleActor
from dspex.modules.chain_of_thought import ChainOfThought
from dspex.modules.errors import ConfigError, UnknownModuleError
from dspex.modules.module import Module
from dspex.modules.predict import Predict
from dspex.modules.react.as_step import react_step
from dspex.modules.run_lm import RunEffects, RunLM
from dspex.modules.signature import Signature
from dspex.modules.step_config import check_config, check_demos
from dspex.providers.lm import LM
from dspex.runtime import (
    ActorRef,
    CalleeExitedError,
    CallError,
    NameWaitTimeoutError,
    NoProcessError,
)
from dspex.runtime.engine import Effects, Shape, Step, StepResult
from dspex.runtime.registry import Registry
from dspex.supervisors import ChildSpec, DynamicSupervisor

ModuleFactory = Callable[..., Module]

NATIVE_MODULES: Final[Mapping[str, ModuleFactory]] = {
    "ChainOfThought": ChainOfThought,
    "Predict": Predict,
    "ReAct": react_step,
}
"""What a step's `module` can name with the native backend."""

# An actor that is not there for so long may have lost its supervisor.
_LOOK_SECONDS: Final = 0.5

# What bounds the forwards of a step is how many runs run, and the model's own limits.
_FORWARDS_AT_ONCE: Final = 10_000

# The runs themselves are kept with their steps and model calls.
_HISTORY: Final = 100

# How often an actor is started anew because its supervisor died meanwhile.
_STARTS: Final = 5
_SUPERVISOR_SECONDS: Final = 10.0


def signature_of(step: Step) -> Signature:
    """Give the signature of a step, with the step's instructions if it has any.

    Raises:
        SignatureError: it does not parse, or names an unknown type.
    """
    signature = Signature(step.signature)
    if step.instructions is not None:
        signature = signature.with_instructions(step.instructions)
    return signature


def shape_of(signature: Signature) -> Shape:
    """Give the names and types of a signature's fields."""
    return Shape(
        {name: field.annotation for name, field in signature.input_fields.items()},
        {name: field.annotation for name, field in signature.output_fields.items()},
    )


class NativeBackend:
    """Runs each step on a ModuleActor of its own, which a supervisor keeps alive."""

    def __init__(
        self,
        *,
        registry: Registry,
        supervisor: ActorRef[DynamicSupervisor],
        lm: LM,
        modules: Mapping[str, ModuleFactory] = NATIVE_MODULES,
    ) -> None:
        self._registry = registry
        self._supervisor = supervisor
        self._lm = lm
        self._modules = modules
        # Which supervisor has the actor of a step: a new one starts with none.
        self._kept_by: dict[str, int] = {}
        self._preparing = trio.Lock()

    def shape(self, step: Step) -> Shape:
        """Give what the step takes and gives.

        Raises:
            UnknownModuleError: no native module has that name.
            SignatureError: the signature does not parse.
            ConfigError: the module does not take such a config.
        """
        check_config(step)
        module = self.make(step)
        # What a module adds, such as the reasoning, is in its own signature.
        signature: Signature = getattr(module, "signature", signature_of(step))
        check_demos(step, signature.fields)
        shape = shape_of(signature)
        added: Mapping[str, Any] = getattr(module, "added_outputs", {})  # Any: types
        return Shape(shape.inputs, {**shape.outputs, **added}) if added else shape

    def make(self, step: Step) -> Module:
        """Give the module of a step.

        Raises:
            UnknownModuleError: no native module has that name.
            SignatureError: the signature does not parse.
            ConfigError: the module does not take such a config.
        """
        factory = self._modules.get(step.module)
        if factory is None:
            raise UnknownModuleError(
                step.module,
                tuple(self._modules),
                "for a module of dspy itself write backend: python and "
                f"module: dspy.{step.module.removeprefix('dspy.')}",
            )
        try:
            return factory(signature_of(step), demos=step.demos, **step.config)
        except TypeError as error:
            raise ConfigError("config", dict(step.config), str(error)) from error

    async def prepare(self, name: str, step: Step) -> None:
        """Start the step's actor under `name`, unless it is there."""
        async with self._preparing:
            if self._registry.whereis(name) is None:
                module = self.make(step)

                def build() -> ModuleActor:
                    return ModuleActor(
                        module,
                        max_concurrency=_FORWARDS_AT_ONCE,
                        timeout=step.options.timeout,
                        history=_HISTORY,
                    )

                await self._start(ChildSpec(name, build, name=name))

    async def release(self, name: str, step: Step) -> None:
        """End the step's actor, also one that is just being restarted."""
        self._kept_by.pop(name, None)
        # Without a supervisor, or given up by it, it has ended.
        with suppress(NameWaitTimeoutError, CallError):
            ref: ActorRef[ModuleActor] = await self._registry.wait_for(
                name, _LOOK_SECONDS
            )
            await self._supervisor.call(DynamicSupervisor.terminate_child, ref)

    async def _start(self, spec: ChildSpec) -> None:
        for left in reversed(range(_STARTS)):
            # If it is another's when the actor is looked for, it is started again.
            self._kept_by[spec.id] = self._supervisor.id
            try:
                await self._supervisor.call(DynamicSupervisor.start_child, spec)
            except (CalleeExitedError, NoProcessError):
                if not left:
                    raise
                name = self._supervisor.name
                await self._registry.wait_for(name, _SUPERVISOR_SECONDS)
            else:
                return

    async def run(
        self,
        name: str,
        step: Step,
        inputs: Mapping[str, Any],  # Any: whatever the signature says
        *,
        effects: Effects,
        deadline: float,
    ) -> StepResult:
        """Run the step once on the actor that has its name now.

        Raises:
            CalleeExitedError: the actor died; dispatch again.
            NameWaitTimeoutError: it did not come back by the deadline.
            DspexError: whatever the module raises.
        """
        lm = RunLM(self._lm, effects)
        ref = await self._find(name, step, deadline)
        prediction = await ref.call(
            ModuleActor.forward,
            inputs,
            lm,
            RunEffects(effects, lm),
            timeout=_left(deadline),
        )
        return StepResult(prediction.outputs, lm.usage.to_json(), lm.cost)

    async def _find(
        self, name: str, step: Step, deadline: float
    ) -> ActorRef[ModuleActor]:
        """Give the step's actor; start it again if its supervisor was replaced."""
        while True:
            seconds = min(_left(deadline), _LOOK_SECONDS)
            try:
                ref: ActorRef[ModuleActor] = await self._registry.wait_for(
                    name, seconds
                )
            except NameWaitTimeoutError:
                if seconds < _LOOK_SECONDS:
                    raise
            else:
                return ref
            there = self._supervisor
            if there.is_serving and there.id != self._kept_by.get(name, there.id):
                await self.prepare(name, step)


def _left(deadline: float) -> float:
    return max(0.0, deadline - trio.current_time())
