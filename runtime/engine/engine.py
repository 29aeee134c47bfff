"""Engine: runs a plan, each step as soon as its inputs are there."""

import math
import time
import uuid
from collections.abc import Mapping
from graphlib import TopologicalSorter
from typing import Any

import trio

from dspex.runtime.engine.backend import Backend, StepResult
from dspex.runtime.engine.effects import EffectLog, RunJournal
from dspex.runtime.engine.errors import (
    ConditionError,
    NondeterminismError,
    RunInterruptedError,
    RunTimeoutError,
    StepFailedError,
    StepTimeoutError,
)
from dspex.runtime.engine.plan import PROGRAM_INPUTS, Literal, Plan, Reference
from dspex.runtime.engine.run import Run, StepInFlight, StepRecord
from dspex.runtime.engine.step_work import StepWork
from dspex.runtime.log import get_logger
from dspex.runtime.reasons import describe

log = get_logger()


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
        progress: dict[str, StepRecord] | None = None,
    ) -> Run:
        """Run a plan with inputs that `Plan.check_inputs` has passed.

        `run_id` is the run's name where it has been accepted before. `progress` is
        given the records of its steps, which tell how far each is, also when this
        call has been cancelled.

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
            progress={} if progress is None else progress,
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
        progress: dict[str, StepRecord],
    ) -> None:
        self._in_flight = in_flight
        self._backends = backends
        self._plan = plan
        self._inputs = inputs
        self._journal = journal
        self._id = (run_id or uuid.uuid4().hex) if journal is None else journal.run
        self._results: dict[str, StepResult] = {}
        self._failures: list[Exception] = []
        self._records = progress
        for name, step in plan.program.steps.items():
            progress[name] = StepRecord(name, step.backend)
        self._order = TopologicalSorter(plan.dependencies)
        self._error: Exception | None = None
        self._branches = 0
        self._branch_ended = trio.Event()
        self._is_over = False

    async def run(self) -> Run:
        self._order.prepare()
        options = self._plan.program.options
        limit = math.inf if options.timeout is None else options.timeout
        # One for the steps and for their calls: each costs as much as a small step.
        async with trio.open_nursery() as nursery:
            scope = nursery.cancel_scope
            scope.deadline = trio.current_time() + limit
            effect_log = EffectLog(nursery, self._journal, scope=scope)
            await self._run_ready(nursery, effect_log)
            while self._branches:
                self._branch_ended = trio.Event()
                await self._branch_ended.wait()
            self._is_over = True
            if effect_log.is_busy:
                # Nobody waits for a call that is still under way here.
                scope.cancel()
        if effect_log.fault is not None:
            raise RunInterruptedError(
                self._id, effect_log.fault, tuple(effect_log.unsaved)
            ) from effect_log.fault
        if not self._is_over and self._error is None:
            late = tuple(
                record.name
                for record in self._records.values()
                if record.state in ("pending", "cancelled")
            )
            self._error = RunTimeoutError(self._plan.program.name, limit, late)
        given = {} if self._error is not None else self._outputs()
        if not given and self._error is None and self._failures:
            self._error = self._failures[0]
        return Run(
            self._id,
            self._plan.program.name,
            tuple(self._records.values()),
            given,
            self._error,
        )

    async def _run_ready(self, nursery: trio.Nursery, effect_log: EffectLog) -> None:
        """Run the steps that can run now, then what they made ready, and so on.

        One of them goes on in this task: a chain of steps needs no task for each.
        """
        while ready := self._order.get_ready():
            own, *others = ready
            for name in others:
                self._branches += 1
                nursery.start_soon(self._run_branch, name, nursery, effect_log)
            if not await self._run_step(own, effect_log):
                nursery.cancel_scope.cancel()
                return

    async def _run_branch(
        self, name: str, nursery: trio.Nursery, effect_log: EffectLog
    ) -> None:
        if await self._run_step(name, effect_log):
            await self._run_ready(nursery, effect_log)
        else:
            nursery.cancel_scope.cancel()
        self._branches -= 1
        self._branch_ended.set()

    async def _run_step(self, name: str, effect_log: EffectLog) -> bool:
        """Run a step; whether the run goes on."""
        record = self._records[name]
        try:
            problem = self._reason_to_skip(name)
            if problem is None:
                self._results[name] = await self._run_wanted(name, record, effect_log)
            else:
                self._skip(name, record, problem)
        except Exception as error:  # noqa: BLE001 - the run's outcome carries it
            if effect_log.fault is not None or not self._fail(name, error):
                return False
        self._order.done(name)
        return True

    def _reason_to_skip(self, name: str) -> str | None:
        for needed in self._plan.needs(name):
            if needed not in self._results:
                return f"step {needed!r} gave nothing"
        condition = self._plan.conditions.get(name)
        if condition is None:
            return None
        for source, _ in condition.references:
            if source != PROGRAM_INPUTS and source not in self._results:
                return f"step {source!r}, which its `when` needs, gave nothing"
        try:
            if condition.holds(self._named_value):
                return None
        except TypeError as error:
            raise ConditionError(name, condition.text, str(error)) from error
        default = self._plan.program.steps[name].options.default
        if default is not None:
            self._results[name] = StepResult(default)
        return f"when {condition.text!r} does not hold"

    def _skip(self, name: str, record: StepRecord, problem: str) -> None:
        record.state = "skipped"
        record.error = problem
        self._note("step_skipped", step=name, reason=problem)

    def _fail(self, name: str, error: Exception) -> bool:
        """Take note of a failed step; whether the run goes on."""
        options = self._plan.program.steps[name].options
        record = self._records[name]
        record.state = "failed"
        record.error = describe(error)
        log.warning("step_failed", run=self._id, step=name, reason=record.error)
        self._note("step_failed", step=name, error=record.error)
        failure = StepFailedError(name, error)
        failure.__cause__ = error
        self._failures.append(failure)
        if options.on_error == "default" and options.default is not None:
            self._results[name] = StepResult(options.default)
            return True
        if options.on_error == "skip" or self._plan.program.options.tolerant:
            return True
        if self._error is None:
            self._error = failure
        return False

    async def _run_wanted(
        self, name: str, record: StepRecord, effect_log: EffectLog
    ) -> StepResult:
        started = trio.current_time()
        record.state = "running"
        record.started_at = time.time()
        self._note("step_started", step=name, backend=record.backend)
        self._in_flight[id(record)] = StepInFlight(
            self._id, self._plan.program.name, name, record.backend, started
        )
        try:
            result = await self._by_deadline(name, record, effect_log)
        except Exception:
            raise
        except BaseException:  # with its run
            record.state = "cancelled"
            raise
        finally:
            record.seconds = trio.current_time() - started
            counts = effect_log.counts.get(name)
            if counts is not None:
                record.live, record.journaled = counts.live, counts.journaled
                record.cost_usd = counts.cost_usd
            del self._in_flight[id(record)]
        self._check_unused(name, record, effect_log)
        record.state = "succeeded"
        record.usage = result.usage
        self._note("step_finished", step=name, seconds=record.seconds)
        return result

    def _check_unused(
        self, name: str, record: StepRecord, effect_log: EffectLog
    ) -> None:
        unused = effect_log.unused(name)
        # The kept result of a hosted step stands for the calls that it made.
        if not unused or record.backend != "native":
            return
        error = NondeterminismError(name, unused)
        if self._plan.program.options.on_change == "fail":
            raise error
        log.warning("step_changed", run=self._id, step=name, reason=str(error))

    async def _by_deadline(
        self, name: str, record: StepRecord, effect_log: EffectLog
    ) -> StepResult:
        step = self._plan.program.steps[name]
        inputs = {
            field: self._value(source)
            for field, source in self._plan.wiring[name].items()
        }
        deadline = trio.current_time() + step.options.timeout
        work = StepWork(
            self._id,
            self._plan,
            name,
            step,
            self._backends[step.backend],
            record,
            effect_log,
            deadline,
            is_journaled=self._journal is not None,
        )
        with trio.CancelScope(deadline=deadline):
            if step.map is None:
                return await work.attempts(name, inputs)
            return await work.map(inputs)
        raise StepTimeoutError(name, step.options.timeout, record.attempts)

    def _note(self, kind: str, **body: object) -> None:
        if self._journal is not None:
            self._journal.note(kind, body)

    def _value(self, source: Reference | Literal) -> object:
        if isinstance(source, Literal):
            return source.value
        if source.step is None:
            return self._inputs[source.field]
        return self._results[source.step].outputs[source.field]

    def _named_value(self, source: str, field: str) -> object:
        return self._value(
            Reference(None if source == PROGRAM_INPUTS else source, field)
        )

    def _outputs(self) -> dict[str, Any]:  # Any: whatever the signatures say
        return {
            name: self._value(ref)
            for name, ref in self._plan.outputs.items()
            if ref.step is None or ref.step in self._results
        }
