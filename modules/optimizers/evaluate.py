"""Evaluate: a program's score on examples, each outcome kept."""

import math
from collections.abc import Callable, Sequence
from typing import TypeAlias

import trio

from dspex.modules.adapters.protocol import Demo
from dspex.modules.errors import ConfigError
from dspex.modules.module import Module
from dspex.modules.optimizers.attempt import Attempt, Meter, budget_error_of, try_once
from dspex.modules.optimizers.errors import (
    DatasetError,
    ItemTimeoutError,
)
from dspex.modules.optimizers.evaluation import (
    Evaluation,
    EvaluationFailedError,
    Outcome,
)
from dspex.modules.optimizers.example import Example
from dspex.modules.optimizers.journaled import EffectScopes, scope_of
from dspex.modules.optimizers.metrics import Judge, Metric
from dspex.providers.budget import Budget
from dspex.providers.lm import LM

DEFAULT_TIMEOUT = 120.0

OnOutcome: TypeAlias = Callable[[Outcome], None]


class Evaluate:
    """Runs programs on a dev set: `evaluation = await evaluate(program)`.

    At most `concurrency` examples run at a time; each has `timeout` seconds, its
    metric included (a metric that blocks without awaiting cannot be stopped). One that
    fails counts `failure_score`; the `max_errors`-th failure ends the evaluation, None
    lets all fail. `on_outcome` is told each outcome as it comes, in any order.

    `budget` counts the model calls of all its runs, whatever model makes them. One that
    is used up, this or a model's own, ends the evaluation without an error: what was
    not run is `skipped`.

    Raises:
        DatasetError: there is no example, or one does not say what its inputs are.
        ConfigError: a setting is out of range.
    """

    def __init__(
        self,
        devset: Sequence[Example],
        *,
        metric: Metric,
        concurrency: int = 8,
        timeout: float = DEFAULT_TIMEOUT,
        max_errors: int | None = 10,
        failure_score: float = 0.0,
        budget: Budget | None = None,
        on_outcome: OnOutcome | None = None,
    ) -> None:
        check_at_least("concurrency", concurrency, 1)
        if max_errors is not None:
            check_at_least("max_errors", max_errors, 0)
        if not timeout > 0:
            raise ConfigError("timeout", timeout, "must be more than 0 seconds")
        if not devset:
            raise DatasetError("dev set", "has no example to evaluate on")
        for example in devset:
            example.inputs()
        self.devset = tuple(devset)
        self._judge = Judge(metric)
        self._concurrency = concurrency
        self._timeout = timeout
        self._max_errors = max_errors
        self._failure_score = failure_score
        self._budget = budget
        self._on_outcome = on_outcome

    async def __call__(
        self,
        program: Module,
        *,
        lm: LM | None = None,
        journal: EffectScopes | None = None,
    ) -> Evaluation:
        """Run the program on every example, and give the outcomes in their order.

        `lm` is the model of the predictors that have none. An example never sees
        itself: a demo with its inputs is left out while it runs. What a `journal`
        (see `open_work`) has of an earlier process is not asked again.

        Raises:
            EvaluationFailedError: `max_errors` examples failed; has what was done.
        """
        started = trio.current_time()
        run = _Run(self.devset, self._failure_score)
        limit = math.inf if self._max_errors is None else self._max_errors
        todo = iter(range(len(self.devset)))
        has_demos = any(predictor.demos for predictor in program.predictors)
        async with trio.open_nursery() as nursery:

            async def work() -> None:
                for index in todo:
                    example = self.devset[index]
                    effects = scope_of(journal, f"example[{index}]")
                    meter = run.meters[index] = Meter(effects, budget=self._budget)
                    attempt = await try_once(
                        without_demos_of(program, example) if has_demos else program,
                        example,
                        self._judge,
                        lm=lm,
                        timeout=self._timeout,
                        with_trace=False,
                        meter=meter,
                    )
                    used_up = budget_error_of(attempt.error)
                    if used_up is not None:
                        run.stopped = str(used_up)
                        nursery.cancel_scope.cancel()
                        return
                    outcome = run.add(index, attempt)
                    if self._on_outcome is not None:
                        self._on_outcome(outcome)
                    if attempt.error is not None and run.errors >= limit:
                        run.last_error = attempt.error
                        nursery.cancel_scope.cancel()
                        return

            for _ in range(min(self._concurrency, len(self.devset))):
                nursery.start_soon(work)
        evaluation = run.finish(trio.current_time() - started)
        if run.last_error is not None:
            raise EvaluationFailedError(evaluation, run.last_error) from run.last_error
        return evaluation


class _Run:
    """What an evaluation has so far."""

    def __init__(self, devset: Sequence[Example], failure_score: float) -> None:
        self._devset = devset
        self._failure_score = failure_score
        self._outcomes: list[Outcome | None] = [None] * len(devset)
        self.meters: dict[int, Meter] = {}
        self.errors = 0
        self.last_error: Exception | None = None
        self.stopped: str | None = None

    def add(self, index: int, attempt: Attempt) -> Outcome:
        outcome = to_outcome(index, self._devset[index], attempt, self._failure_score)
        self.errors += outcome.error is not None
        self._outcomes[index] = outcome
        return outcome

    def finish(self, seconds: float) -> Evaluation:
        outcomes = tuple(
            self._skipped(index) if outcome is None else outcome
            for index, outcome in enumerate(self._outcomes)
        )
        return Evaluation(outcomes, seconds=seconds, stopped=self.stopped)

    def _skipped(self, index: int) -> Outcome:
        # One that was given up has calls all the same.
        meter = self.meters.get(index) or Meter()
        return Outcome(
            index,
            self._devset[index],
            "skipped",
            self._failure_score,
            calls=meter.calls,
            replayed=meter.replayed,
            usage=meter.usage,
        )


def to_outcome(
    index: int, example: Example, attempt: Attempt, failure_score: float
) -> Outcome:
    """Give the outcome of an attempt on an example."""
    if attempt.score is not None and attempt.error is None:
        return Outcome(
            index,
            example,
            "scored",
            attempt.score.value,
            attempt.prediction,
            feedback=attempt.score.feedback,
            seconds=attempt.seconds,
            calls=attempt.calls,
            replayed=attempt.replayed,
            usage=attempt.usage,
        )
    return Outcome(
        index,
        example,
        "timed_out" if isinstance(attempt.error, ItemTimeoutError) else "failed",
        failure_score,
        attempt.prediction,
        error=attempt.error,
        seconds=attempt.seconds,
        calls=attempt.calls,
        replayed=attempt.replayed,
        usage=attempt.usage,
    )


def without_demos_of(program: Module, example: Example) -> Module:
    """Give the program without demos that have the example's inputs.

    The program itself where there are none.
    """
    inputs = example.inputs()

    def is_same(demo: Demo) -> bool:
        return all(
            name in demo and bool(demo[name] == value) for name, value in inputs.items()
        )

    if not any(is_same(d) for predictor in program.predictors for d in predictor.demos):
        return program
    copied = program.copy()
    for predictor in copied.predictors:
        predictor.demos = tuple(d for d in predictor.demos if not is_same(d))
    return copied


def check_at_least(name: str, value: int, least: int) -> None:
    """Pass a setting that is large enough.

    Raises:
        ConfigError: it is not.
    """
    if value < least:
        raise ConfigError(name, value, f"must be at least {least}")
