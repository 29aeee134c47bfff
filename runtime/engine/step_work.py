"""StepWork: one step of one run: its items, its attempts, its dispatches."""

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, cast

import trio
from pydantic_core import to_json, to_jsonable_python

from dspex.runtime.engine.backend import Backend, StepResult
from dspex.runtime.engine.effects import EffectLog, Effects
from dspex.runtime.engine.errors import (
    MapError,
    MissingOutputError,
    StepCrashedError,
    StepOutputError,
    TooManyDispatchesError,
)
from dspex.runtime.engine.json_text import json_problem
from dspex.runtime.engine.plan import Plan
from dspex.runtime.engine.program import Step
from dspex.runtime.engine.run import StepRecord
from dspex.runtime.errors import CalleeExitedError, NoProcessError
from dspex.runtime.log import get_logger
from dspex.runtime.reasons import describe

log = get_logger()

# What a backend raises when what it gave the step to is dead: dispatch again.
_DEATHS = (CalleeExitedError, NoProcessError)

# Between the attempts of a step, twice as long each time.
_RETRY_SECONDS: Final = 0.5
_MAX_RETRY_SECONDS: Final = 30.0

# Of what died a step is dispatched again at once, so often; then with a pause, twice
# as long each time.
_AT_ONCE: Final = 2
_PAUSE_SECONDS: Final = 0.1
_MAX_PAUSE_SECONDS: Final = 5.0


@dataclass(frozen=True, slots=True)
class StepWork:
    """One step of one run: its attempts, its dispatches, its items."""

    run: str
    plan: Plan
    name: str
    step: Step
    backend: Backend
    record: StepRecord
    effect_log: EffectLog
    deadline: float
    is_journaled: bool

    async def map(
        self,
        inputs: Mapping[str, Any],  # Any: whatever the signature says
    ) -> StepResult:
        """Run once for each item of a list, some at a time; outputs are lists."""
        (over,) = self.step.map or ("",)
        items: object = inputs[over]
        if not isinstance(items, list | tuple):
            raise MapError(self.name, over, items)
        values = cast("Sequence[object]", items)
        results: list[StepResult | None] = [None] * len(values)
        todo = iter(enumerate(values))
        failures: list[Exception] = []

        async def work(nursery: trio.Nursery) -> None:
            for index, item in todo:
                path = f"{self.name}[{index}]"
                try:
                    results[index] = await self.attempts(path, {**inputs, over: item})
                except Exception as error:  # noqa: BLE001 - raised below
                    failures.append(error)
                    nursery.cancel_scope.cancel()
                    return

        async with trio.open_nursery() as nursery:
            for _ in range(min(self.step.options.concurrency, len(values))):
                nursery.start_soon(work, nursery)
        if failures:
            raise failures[0]
        done = [result for result in results if result is not None]
        usage: Counter[str] = Counter()
        for result in done:
            usage.update(result.usage)
        names = self.plan.calls[self.name].outputs
        return StepResult(
            {name: [result.outputs[name] for result in done] for name in names},
            dict(usage),
        )

    async def attempts(
        self,
        path: str,
        inputs: Mapping[str, Any],  # Any: whatever the signature says
    ) -> StepResult:
        """Run, and do it anew after a failure as often as the step may."""
        retries = self.step.options.retries
        for attempt in range(retries + 1):
            # Each attempt asks anew; after a resume each has its own answers.
            place = path if not attempt else f"{path}~{attempt}"
            try:
                return await self._dispatch(place, inputs)
            except Exception as error:
                if attempt == retries or self.effect_log.fault is not None:
                    raise
                log.warning(
                    "step_retried",
                    run=self.run,
                    step=self.name,
                    reason=describe(error),
                    attempt=attempt + 2,
                )
            await trio.sleep(min(_RETRY_SECONDS * 2**attempt, _MAX_RETRY_SECONDS))
        raise AssertionError(retries)

    async def _dispatch(
        self,
        path: str,
        inputs: Mapping[str, Any],  # Any: whatever the signature says
    ) -> StepResult:
        dispatches = crashes = 0
        options = self.step.options
        while True:
            dispatches += 1
            self.record.attempts += 1
            try:
                return await self._give(path, inputs)
            except _DEATHS as death:
                crashes = crashes + 1 if isinstance(death, StepCrashedError) else 0
                for count, option in (
                    (crashes, "max_crashes"),
                    (dispatches, "max_dispatches"),
                ):
                    if count >= getattr(options, option):
                        raise TooManyDispatchesError(
                            self.name, dispatches, death, option=option
                        ) from death
                self.record.restarts += 1
                log.warning(
                    "step_dispatched_again",
                    run=self.run,
                    step=self.name,
                    reason=describe(death),
                    dispatches=dispatches + 1,
                )
            if dispatches > _AT_ONCE:
                pause = _PAUSE_SECONDS * 2 ** (dispatches - _AT_ONCE - 1)
                await trio.sleep(min(pause, _MAX_PAUSE_SECONDS))

    async def _give(
        self,
        path: str,
        inputs: Mapping[str, Any],  # Any: whatever the signature says
    ) -> StepResult:
        effects = self.effect_log.scope(path)
        run = partial(self._run, inputs, effects)
        if not self.is_journaled or self.step.backend == "native":
            return await run()
        # Code that may do anything: its result is an effect of its own.
        return await effects.perform_here(
            _fingerprint(self.step, inputs),
            run,
            codec=self.plan.result_codec(self.name),
            request=lambda: to_jsonable_python(inputs, fallback=str),
        )

    async def _run(
        self,
        inputs: Mapping[str, Any],  # Any: whatever the signature says
        effects: Effects,
    ) -> StepResult:
        result = await self.backend.run(
            f"{self.plan.actors}/{self.name}",
            self.step,
            inputs,
            effects=effects,
            deadline=self.deadline,
        )
        for output in self.plan.calls[self.name].outputs:
            if output not in result.outputs:
                raise MissingOutputError(self.name, output, tuple(result.outputs))
        if json_problem(result.outputs) is not None:
            for output, value in result.outputs.items():
                problem = json_problem(value)
                if problem is not None:
                    raise StepOutputError(self.name, output, problem)
        return result


def _fingerprint(step: Step, inputs: Mapping[str, object]) -> str:
    text = to_json([step.module, step.signature, inputs], fallback=str)
    return f"{step.module}:{hashlib.sha256(text).hexdigest()}"
