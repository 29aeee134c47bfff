"""Checks in a forward: `ensure` what must hold, `suggest` what should.

    async def forward(self, question: str) -> Prediction:
        found = await self.answer(question=question)
        ensure(len(found.answer) < 80, "Answer in fewer than 80 characters.")
        return found

On a failure the responsible predictor is called again, with its answer and the message
in the prompt, and the forward goes on from there: it runs again from its start, and
what was done before (model calls, tool calls) is remembered and not done again. So a
forward may run several times; what it does beside calling predictors and tools should
bear that.
"""

from collections.abc import Callable
from typing import TypeAlias, TypeVar

from dspex.modules.call import Call, Feedback, TraceStep, current_call
from dspex.modules.errors import AssertionFailedError, FailedAttempt
from dspex.modules.exits import TryAgain
from dspex.modules.prediction import Prediction

_K = TypeVar("_K")

MAX_RETRIES = 2

# True or None: good; False or a text: not, and why.
Check: TypeAlias = Callable[[Prediction], bool | str | None]


def ensure(
    condition: object,
    message: str,
    *,
    target: object = None,
    max_retries: int = MAX_RETRIES,
) -> None:
    """Make sure that `condition` holds, or have the predictor try again.

    `message` tells the model what its answer has to fulfil. `target` is the predictor
    (or a module with one) whose answer it is about; the last one called unless given.
    After `max_retries` further answers the run fails.

    Raises:
        AssertionFailedError: it does not hold; nobody, or nobody any more, can retry.
    """
    if condition:
        _pass(target)
        return
    call, step = _responsible(target)
    if call is None or step is None:
        raise AssertionFailedError(message)
    if not _take_retry(call, step, message, max_retries):
        raise AssertionFailedError(
            message, _attempts(call, step, message), repr(step.predictor)
        )
    raise TryAgain


def suggest(
    condition: object,
    message: str,
    *,
    target: object = None,
    max_retries: int = MAX_RETRIES,
) -> None:
    """Have the predictor try again where `condition` does not hold, but do not insist.

    As `ensure`, but after `max_retries` further answers the run goes on, with the
    message in the `suggestions` of its prediction.
    """
    if condition:
        _pass(target)
        return
    call, step = _responsible(target)
    if call is None:
        return
    if step is not None and _take_retry(call, step, message, max_retries):
        raise TryAgain
    call.memory.suggestions.append(message)


def _pass(target: object) -> None:
    """Count a check that holds, so that the next one keeps its place."""
    call, step = _responsible(target)
    if call is not None and step is not None:
        _count(call.memory.checked, step.key)


def _responsible(target: object) -> tuple[Call | None, TraceStep | None]:
    call = current_call()
    if call is None:
        return None, None
    for step in reversed(call.memory.trace):
        if target is None or step.predictor is target or _is_in(step, target):
            return call, step
    return call, None


def _is_in(step: TraceStep, target: object) -> bool:
    """Whether the step's predictor is one of the target module's."""
    predictors = getattr(target, "predictors", ())
    return any(step.predictor is predictor for predictor in predictors)


def _take_retry(call: Call, step: TraceStep, message: str, max_retries: int) -> bool:
    memory = call.memory
    place = (step.key, _count(memory.checked, step.key))
    if memory.failures.get(place, 0) >= max_retries:
        return False
    _count(memory.failures, place)
    memory.feedback.setdefault(step.key, []).append(
        Feedback(step.choice, message, step.prediction.outputs)
    )
    return True


def _count(counts: dict[_K, int], key: _K) -> int:
    """Count one more, and give how many there were."""
    before = counts.get(key, 0)
    counts[key] = before + 1
    return before


def _attempts(call: Call, step: TraceStep, message: str) -> tuple[FailedAttempt, ...]:
    before = call.memory.feedback.get(step.key, [])
    return (
        *(FailedAttempt(item.outputs, item.message) for item in before),
        FailedAttempt(step.prediction.outputs, message),
    )


def wants_another_pass(error: BaseException) -> bool:
    """Whether an exception out of a forward is the order to run it again.

    Out of a nursery it comes in a group; beside a real error it does not count.
    """
    if isinstance(error, TryAgain):
        return True
    if not isinstance(error, BaseExceptionGroup):
        return False
    return error.split(TryAgain)[1] is None


def first_problem_of(checks: tuple[Check, ...], prediction: Prediction) -> str | None:
    """Give what the first check that fails has to say; None when all hold."""
    for check in checks:
        found = check(prediction)
        if isinstance(found, str):
            return found
        if found is False:
            name = getattr(check, "__name__", "the check")
            doc = (getattr(check, "__doc__", None) or "").strip().partition("\n")[0]
            return doc or f"it does not pass {name}"
    return None
