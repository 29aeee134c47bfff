"""HostedBackend: steps that run in the process that hosts the real dspy."""

from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any, Final

import trio

from dspex.modules.errors import HostedOutputError, UnknownModuleError
from dspex.modules.hosted_outputs import check_outputs
from dspex.modules.hosted_texts import HostedTexts, StreamedCalls
from dspex.modules.hosted_values import fields_for_dspy
from dspex.modules.native import shape_of, signature_of
from dspex.modules.run_lm import RunLM
from dspex.modules.step_config import check_config, check_demos
from dspex.providers.lm import LM
from dspex.providers.messages import Request
from dspex.runtime import (
    ActorRef,
    CalleeExitedError,
    CallTimeoutError,
    NoProcessError,
)
from dspex.runtime.bridge import (
    DspyCall,
    DspyPool,
    ModelHandler,
    PoolFullError,
    ProgressHandler,
    QueueTimeoutError,
    RemoteError,
    RunTimeoutError,
    WorkerDiedError,
)
from dspex.runtime.engine import (
    Effects,
    Shape,
    Step,
    StepCrashedError,
    StepOutputError,
    StepResult,
)
from dspex.runtime.log import get_logger
from dspex.runtime.registry import NameWaitTimeoutError, Registry

BRIDGE_NAME: Final = "dspy"

ADDED_OUTPUTS: Final = {
    "dspy.ChainOfThought": {"reasoning": str},
    "dspy.MultiChainComparison": {"rationale": str},
}
"""What dspy adds to the outputs that a signature names."""

# What a module of dspy takes beside the inputs that its signature names.
_ADDED_INPUTS: Final = {
    "dspy.MultiChainComparison": {"completions": list[dict[str, str]]}
}

_LOOK_UP: Final = "dspex.runtime.bridge.child_modules:look_up"
_LOOK_UPS: Final = 3
_LOOK_UP_SECONDS: Final = 60.0
# By how much the pool is more patient than the step, whose deadline tells its caller.
_MARGIN_SECONDS: Final = 1.0

# Settings of the model calls; what else a step's config holds is the module's.
_LM_SETTINGS: Final = frozenset({"temperature", "top_p", "max_tokens", "stop", "seed"})

# No process looked the module up: that says nothing of the module.
_NOT_LOOKED_UP: Final = (
    CallTimeoutError,
    NameWaitTimeoutError,
    PoolFullError,
    QueueTimeoutError,
    RunTimeoutError,
)

log = get_logger()


class HostedBackend:
    """Runs steps on the dspy bridge; their model calls come back to the parent's LM.

    `start_bridge` starts the bridge's supervisor, once, when the first program that
    needs it is prepared.
    """

    def __init__(
        self,
        *,
        registry: Registry,
        start_bridge: Callable[[], Awaitable[None]],
        lm: LM,
    ) -> None:
        self._registry = registry
        self._start_bridge = start_bridge
        self._known: set[str] = set()
        self._lm = lm
        self._preparing = trio.Lock()

    def shape(self, step: Step) -> Shape:
        """Give what the step takes and gives.

        Raises:
            UnknownModuleError: the module is neither dspy.NAME nor module:attribute.
            SignatureError: the signature does not parse.
        """
        prefix, dot, name = step.module.partition(".")
        hosted = prefix == "dspy" and dot and name.isidentifier()
        if not hosted and ":" not in step.module:
            raise UnknownModuleError(
                step.module,
                ("dspy.Predict", "dspy.ChainOfThought", "package:attribute"),
            )
        signature = signature_of(step)
        check_config(step)
        shape = shape_of(signature)
        outputs = ADDED_OUTPUTS.get(step.module, {})
        inputs = _ADDED_INPUTS.get(step.module, {})
        found = Shape({**inputs, **shape.inputs}, {**outputs, **shape.outputs})
        check_demos(step, {**found.inputs, **found.outputs})
        return found

    def with_lm(self, lm: LM) -> "HostedBackend":
        """Give a backend on the same bridge whose model calls go to another model."""
        return HostedBackend(
            registry=self._registry, start_bridge=self._start_bridge, lm=lm
        )

    async def pool(self) -> ActorRef[DspyPool]:
        """Give the bridge, which is started unless it is there.

        Raises:
            DspexError: it cannot be started.
        """
        async with self._preparing:
            await self._start_bridge()
        return await self._registry.wait_for(BRIDGE_NAME, _LOOK_UP_SECONDS)

    async def renew(self) -> None:
        """Have the next runs import their code anew; those under way keep theirs."""
        self._known.clear()
        ref: ActorRef[DspyPool] | None = self._registry.whereis(BRIDGE_NAME)
        if ref is not None:
            # What comes in the place of a dead one is new.
            with suppress(CalleeExitedError, NoProcessError):
                await ref.call(DspyPool.renew)

    async def prepare(self, name: str, step: Step) -> None:
        """Start the bridge, unless it is there, and look the module up in it.

        Where nobody could look it up in time, or it ended every process that did, the
        step will tell.

        Raises:
            UnknownModuleError: dspy, or the code on the search path, has no such thing.
        """
        async with self._preparing:
            await self._start_bridge()
        if step.module not in self._known:
            await self._look_up(step.module)

    async def release(self, name: str, step: Step) -> None:
        """Nothing to do: the bridge is for all steps."""

    async def _look_up(self, module: str) -> None:
        call = DspyCall(
            module=_LOOK_UP,
            signature="name -> kind",
            inputs={"name": module},
            is_brief=True,
        )
        for _ in range(_LOOK_UPS):
            try:
                ref: ActorRef[DspyPool] = await self._registry.wait_for(
                    BRIDGE_NAME, _LOOK_UP_SECONDS
                )
                await ref.call(DspyPool.run, call, _no_model, timeout=_LOOK_UP_SECONDS)
            except (CalleeExitedError, NoProcessError):
                continue  # its process died
            except _NOT_LOOKED_UP as error:
                log.warning("module_not_looked_up", module=module, reason=str(error))
            except RemoteError as error:
                raise UnknownModuleError(
                    module, ("dspy.NAME", "package.module:attribute"), error.problem
                ) from error
            else:
                self._known.add(module)
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
        """Run the step once in the dspy process that lives now.

        Raises:
            CalleeExitedError: the process died; dispatch again.
            StepCrashedError: it died of the step.
            NameWaitTimeoutError: it did not come back by the deadline.
            RemoteError: the module raised in the dspy process.
            StepOutputError: it gave an output of the wrong type.
        """
        lm = RunLM(self._lm, effects)

        async def complete(request: dict[str, Any]) -> dict[str, Any]:  # Any: JSON
            return (await lm.complete(Request.from_json(request))).to_json()

        patience = _left(deadline) + _MARGIN_SECONDS
        call = call_of(step, inputs, lm=lm, timeout=patience)
        model: ModelHandler = complete
        hear: ProgressHandler | None = None
        if effects.texts is not None:
            call = replace(call, stream=effects.texts.fields)
            texts = HostedTexts(effects.texts, is_json=call.adapter == "json")
            model, hear = StreamedCalls(lm), texts.hear
        ref: ActorRef[DspyPool] = await self._registry.wait_for(
            BRIDGE_NAME, _left(deadline)
        )
        try:
            result = await ref.call(
                DspyPool.run,
                call,
                model,
                None,
                hear,
                timeout=_left(deadline) + _MARGIN_SECONDS,
            )
        except CalleeExitedError as death:
            reason = death.reason
            if isinstance(reason, WorkerDiedError) and reason.is_of_its_run:
                raise StepCrashedError(death.callee, reason) from None
            raise
        try:
            outputs = check_outputs(step.module, step.signature, result.outputs)
        except HostedOutputError as error:
            own = name.rpartition("/")[2]
            raise StepOutputError(own, error.field, error.problem) from None
        return StepResult(outputs, lm.usage.to_json(), lm.cost)


def call_of(
    step: Step,
    inputs: Mapping[str, Any],  # Any: as the signature declares
    *,
    lm: LM,
    timeout: float | None = None,
) -> DspyCall:
    """Give the step as dspy is asked to run it."""
    config = dict(step.config)
    # As with the native backend: JSON for models that follow a schema.
    by_capability = "json" if lm.capabilities.json_schema else None
    return DspyCall(
        module=step.module,
        signature=step.signature,
        instructions=step.instructions,
        adapter=config.pop("adapter", by_capability),
        lm={key: config.pop(key) for key in list(config) if key in _LM_SETTINGS},
        config=config,
        demos=[fields_for_dspy(demo) for demo in step.demos],
        inputs=fields_for_dspy(inputs),
        json_schema=lm.capabilities.json_schema,
        native_tools=lm.capabilities.tools,
        timeout=timeout,
    )


async def _no_model(request: dict[str, Any]) -> dict[str, Any]:  # Any: JSON
    raise AssertionError(request)


def _left(deadline: float) -> float:
    return max(0.0, deadline - trio.current_time())
