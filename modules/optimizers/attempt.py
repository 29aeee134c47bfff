"""An attempt: a program run once on an example, and what its metric says."""

import math
from collections.abc import Awaitable, Callable, Generator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import TypeVar

import trio

from dspex.modules.call import TraceStep, record_trace
from dspex.modules.module import Module
from dspex.modules.optimizers.errors import ItemTimeoutError
from dspex.modules.optimizers.example import Example
from dspex.modules.optimizers.metrics import Judge, Score
from dspex.modules.optimizers.refusals import outlast
from dspex.modules.prediction import Prediction
from dspex.modules.run_lm import codec_of, model_of
from dspex.providers.budget import Budget
from dspex.providers.errors import BudgetExceededError
from dspex.providers.lm import LM, Wrapper
from dspex.providers.messages import Message, Request, Response, Usage
from dspex.runtime.engine import Effects

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Attempt:
    """What came of a program on an example.

    `score` is None without a metric and after an error. `calls` and `usage` count the
    model calls that were answered, those of a failed attempt too; `replayed` says how
    many of them the journal answered.
    """

    prediction: Prediction | None
    score: Score | None
    error: Exception | None
    trace: tuple[TraceStep, ...]
    seconds: float
    calls: int
    usage: Usage
    replayed: int = 0


class TimeLimit:
    """So many seconds for an attempt; they stand still while somebody waits."""

    def __init__(self, seconds: float = math.inf) -> None:
        self.scope = trio.CancelScope(deadline=trio.current_time() + seconds)
        self._waiting = 0
        self._left = seconds

    def give_back(self, seconds: float) -> None:
        """Have it end so much later."""
        self._left += seconds
        self.scope.deadline += seconds

    @contextmanager
    def suspended(self) -> Generator[None]:
        """Stop the clock for the length of a block."""
        if not self._waiting:
            self._left = self.scope.deadline - trio.current_time()
            self.scope.deadline = math.inf
        self._waiting += 1
        try:
            yield
        finally:
            self._waiting -= 1
            if not self._waiting:
                self.scope.deadline = trio.current_time() + self._left


class Meter:
    """Counts the model calls of a try, and makes each once where there is a journal.

    `leave` is waited for before each call that the journal does not answer. A call that
    the provider refuses for its rate is made again (see `outlast`). Neither is of the
    attempt's time, `limit`. A `budget` counts each call that is made, of any model.
    """

    def __init__(
        self,
        effects: Effects | None = None,
        *,
        leave: Callable[[], Awaitable[None]] | None = None,
        budget: Budget | None = None,
    ) -> None:
        self._effects = effects
        self._budget = budget
        self._leave = leave
        self.limit = TimeLimit()
        self.calls = 0
        self.replayed = 0
        self.usage = Usage()

    async def perform(self, fingerprint: str, call: Callable[[], Awaitable[T]]) -> T:
        """Make the call, or give what the journal has of it."""
        is_made = False
        codec = codec_of(fingerprint)

        async def make() -> T:
            nonlocal is_made
            is_made = True
            if codec.kind != "model":
                return await call()
            if self._leave is not None:
                with self.limit.suspended():
                    await self._leave()
            if self._budget is None:
                return await outlast(call, self.limit)
            model = model_of(fingerprint)
            self._budget.begin(model)
            result = await outlast(call, self.limit)
            if isinstance(result, Response):
                self._budget.end(model, result.usage)
            return result

        result: T
        if self._effects is None:
            result = await make()
        else:
            # Here: a try that is given up takes its calls with it.
            result = await self._effects.perform_here(fingerprint, make, codec=codec)
        if isinstance(result, Response):
            self.calls += 1
            self.replayed += not is_made
            self.usage += result.usage
        return result


async def try_once(
    program: Module,
    example: Example,
    judge: Judge | None,
    *,
    lm: LM | None,
    timeout: float,
    with_trace: bool,
    meter: Meter,
) -> Attempt:
    """Run a program on an example and score it; an error is part of what comes back.

    The metric gets the trace when `with_trace`, else None, as in dspy. Predictors that
    it calls use `lm`, too, and their calls count: `meter` has those of an attempt that
    was cancelled.
    """
    limit = meter.limit = TimeLimit(timeout)
    started = trio.current_time()
    prediction: Prediction | None = None
    score: Score | None = None
    error: Exception | None = None
    trace: list[TraceStep] = []
    with limit.scope:
        try:
            with record_trace() if with_trace else nullcontext(trace) as trace:
                prediction = await program.run(example.inputs(), lm=lm, effects=meter)
            if judge is not None:
                score = await judge.score(
                    example,
                    prediction,
                    trace if with_trace else None,
                    lm=lm,
                    effects=meter,
                )
        # A program and a metric are anybody's code: their error is this one's result.
        except Exception as found:  # noqa: BLE001
            error = found
    if limit.scope.cancelled_caught:
        error = ItemTimeoutError(timeout)
    return Attempt(
        prediction,
        score,
        error,
        tuple(trace),
        trio.current_time() - started,
        meter.calls,
        meter.usage,
        meter.replayed,
    )


def budget_error_of(error: BaseException | None) -> BudgetExceededError | None:
    """Give the used-up budget behind an error: itself, its cause, or in its group."""
    if error is None or isinstance(error, BudgetExceededError):
        return error
    if isinstance(error, BaseExceptionGroup):
        inner = [budget_error_of(it) for it in error.exceptions]
        return next((it for it in inner if it is not None), None)
    return budget_error_of(error.__cause__)


def for_round(teacher: Module, lm: LM | None, number: int) -> LM | None:
    """Give the model for a round of tries: from the second on it answers otherwise.

    Predictors of `teacher` that have a model of their own get theirs changed.
    """
    if number == 0:
        return lm
    for predictor in teacher.predictors:
        if predictor.lm is not None:
            predictor.lm = RolloutLM(predictor.lm, number)
    return None if lm is None else RolloutLM(lm, number)


class RolloutLM(Wrapper[LM]):
    """Asks a model at temperature 1 and with a seed of its own, past any cache."""

    def __init__(self, lm: LM, rollout: int) -> None:
        super().__init__(lm)
        self._rollout = rollout

    async def complete(
        self,
        request: Request | str | Sequence[Message],
        *,
        timeout: float | None = None,
    ) -> Response:
        """Send the request with this rollout's settings; see `LM.complete`.

        Raises:
            ProviderError: there is no answer.
        """
        request = replace(Request.of(request), temperature=1.0)
        if self.capabilities.seed:
            request = replace(request, seed=(request.seed or 0) + self._rollout)
        return await self._lm.complete(request, timeout=timeout)
