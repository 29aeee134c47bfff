"""Engine: runs a plan, each step as soon as its inputs are there."""

import hashlib
import time
import uuid
from collections.abc import Mapping
from functools import partial
from graphlib import TopologicalSorter
from typing import Any

import structlog
import trio
from pydantic_core import to_json, to_jsonable_python

from dspex.runtime.engine.backend import Backend, StepResult
from dspex.runtime.engine.effects import EffectLog, RunJournal
from dspex.runtime.engine.errors import (
    RunInterruptedError,
    StepFailedError,
    StepTimeoutError,
    TooManyDispatchesError,
)
from dspex.runtime.engine.plan import Literal, Plan, Reference
from dspex.runtime.engine.program import Step
from dspex.runtime.engine.run import Run, StepInFlight, StepRecord
from dspex.runtime.errors import CalleeExitedError, NoProcessError
from dspex.runtime.reasons import describe

log = structlog.get_logger("dspex")

# What a backend raises when what it gave the step to is dead: dispatch again.
_DEATHS = (CalleeExitedError, NoProcessError)


class Engine:
    """Runs plans on backends, which are found by the step's `backend`."""

    def __init__(self, backends: Mapping[str, Backend]) -> None:
        self.backends = backends
        self._in_flight: dict[int, StepInFlight] = {}

    @property
    def in_flight(self) -> tuple[StepInFlight, ...]:
        """The steps that run now, oldest first."""
        return tuple(self._in_flight.values())

    async def run(
        self,
        plan: Plan,
        inputs: Mapping[str, Any],  # Any: whatever the signatures say
        *,
        run_id: str | None = None,
        journal: RunJournal | None = None,
    ) -> Run:
        """Run a plan with inputs that `Plan.check_inputs` has passed.

        `run_id` is the run's name where it has been accepted before.

        A failed step fails the run and cancels its other steps; the error is in
        the Run, not raised. Cancelling this call cancels the run. With a journal,
        what an earlier attempt has finished is not done again.

        Raises:
            RunInterruptedError: the journal could not keep an effect.
        """
        return await _Execution(
            self.backends,
            plan,
            inputs,
            in_flight=self._in_flight,
            run_id=run_id,
            journal=journal,
        ).run()


class _Execution:
    """The state of one run."""

    def __init__(
        self,
        backends: Mapping[str, Backend],
        plan: Plan,
        inputs: Mapping[str, Any],
        *,
        in_flight: dict[int, StepInFlight],
        run_id: str | None,
        journal: RunJournal | None,
    ) -> None:
        self._in_flight = in_flight
        self._backends = backends
        self._plan = plan
        self._inputs = inputs
        self._journal = journal
        self._id = (run_id or uuid.uuid4().hex) if journal is None else journal.run
        self._results: dict[str, StepResult] = {}
        self._records = {
            name: StepRecord(name, step.backend)
            for name, step in plan.program.steps.items()
        }
        self._order = TopologicalSorter(plan.dependencies)
        self._error: Exception | None = None

    async def run(self) -> Run:
        self._order.prepare()
        async with trio.open_nursery() as effects_nursery:
            async with trio.open_nursery() as nursery:
                effect_log = EffectLog(
                    effects_nursery, self._journal, scope=nursery.cancel_scope
                )
                self._start_ready(nursery, effect_log)
            # Nobody waits for a call that is still under way here.
            effects_nursery.cancel_scope.cancel()
        if effect_log.fault is not None:
            raise RunInterruptedError(
                self._id, effect_log.fault, tuple(effect_log.unsaved)
            ) from effect_log.fault
        return Run(
            self._id,
            self._plan.program.name,
            tuple(self._records.values()),
            {} if self._error is not None else self._outputs(),
            self._error,
        )

    def _start_ready(self, nursery: trio.Nursery, effect_log: EffectLog) -> None:
        for name in self._order.get_ready():
            nursery.start_soon(self._run_step, name, nursery, effect_log)

    async def _run_step(
        self, name: str, nursery: trio.Nursery, effect_log: EffectLog
    ) -> None:
        started = trio.current_time()
        record = self._records[name]
        record.started_at = time.time()
        await self._note("step_started", step=name, backend=record.backend)
        self._in_flight[id(record)] = StepInFlight(
            self._id, self._plan.program.name, name, record.backend, started
        )
        try:
            result = await self._dispatch(name, record, effect_log)
        except Exception as error:  # noqa: BLE001 - the run's outcome carries it
            record.error = describe(error)
            if effect_log.fault is None and self._error is None:
                self._error = StepFailedError(name, error)
                self._error.__cause__ = error
                log.warning(
                    "step_failed", run=self._id, step=name, reason=describe(error)
                )
            nursery.cancel_scope.cancel()
            return
        finally:
            record.seconds = trio.current_time() - started
            counts = effect_log.counts.get(name)
            if counts is not None:
                record.live, record.journaled = counts.live, counts.journaled
            del self._in_flight[id(record)]
        record.usage = result.usage
        await self._note("step_finished", step=name, seconds=record.seconds)
        self._results[name] = result
        self._order.done(name)
        self._start_ready(nursery, effect_log)

    async def _dispatch(
        self, name: str, record: StepRecord, effect_log: EffectLog
    ) -> StepResult:
        step: Step = self._plan.program.steps[name]
        backend = self._backends[step.backend]
        actor = f"{self._plan.actors}/{name}"
        inputs = {
            field: self._value(source)
            for field, source in self._plan.wiring[name].items()
        }
        deadline = trio.current_time() + step.options.timeout
        dispatches = 0
        with trio.CancelScope(deadline=deadline):
            while True:
                dispatches += 1
                try:
                    effects = effect_log.scope(name)
                    run = partial(
                        backend.run,
                        actor,
                        step,
                        inputs,
                        effects=effects,
                        deadline=deadline,
                    )
                    if self._journal is None or step.backend == "native":
                        return await run()
                    # Code that may do anything: its result is an effect of its own.
                    return await effects.perform_here(
                        _fingerprint(step, inputs),
                        run,
                        codec=self._plan.result_codec(name),
                        request=lambda: to_jsonable_python(inputs, fallback=str),
                    )
                except _DEATHS as death:
                    if dispatches >= step.options.max_dispatches:
                        raise TooManyDispatchesError(name, dispatches, death) from death
                    record.restarts += 1
                    log.warning(
                        "step_dispatched_again",
                        run=self._id,
                        step=name,
                        reason=describe(death),
                        dispatches=dispatches + 1,
                    )
        raise StepTimeoutError(name, step.options.timeout, dispatches)

    async def _note(self, kind: str, **body: object) -> None:
        if self._journal is not None:
            await self._journal.note(kind, body)

    def _value(self, source: Reference | Literal) -> object:
        if isinstance(source, Literal):
            return source.value
        if source.step is None:
            return self._inputs[source.field]
        return self._results[source.step].outputs[source.field]

    def _outputs(self) -> dict[str, Any]:  # Any: whatever the signatures say
        return {name: self._value(ref) for name, ref in self._plan.outputs.items()}


def _fingerprint(step: Step, inputs: Mapping[str, object]) -> str:
    text = to_json([step.module, step.signature, inputs], fallback=str)
    return f"{step.module}:{hashlib.sha256(text).hexdigest()}"
