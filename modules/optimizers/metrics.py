"""Metrics: how good a prediction is, as a number between 0 and 1.

A metric is a function of the example, the prediction and, if it takes a third, the
trace: the predictor calls of the run when an optimizer asks, None in an evaluation. It
may be async, and gives a bool, a number or a `Score` with feedback.
"""

import inspect
import math
import re
import string
import unicodedata
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias, cast

from dspex.modules.call import Effects, TraceStep, begin_call, end_call
from dspex.modules.exits import refuse_exit
from dspex.modules.optimizers.errors import MetricError
from dspex.modules.optimizers.example import Example
from dspex.modules.prediction import Prediction
from dspex.providers.lm import LM

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_NUMBER = re.compile(r"[-+]?(?:\d[\d,]*\.?\d*|\.\d+)(?:[eE][-+]?\d+)?")


@dataclass(frozen=True, slots=True)
class Score:
    """How good a prediction is, and why."""

    value: float
    feedback: str = ""

    def __float__(self) -> float:
        return float(self.value)

    def __bool__(self) -> bool:
        return bool(self.value)


# Any: a metric takes two or three arguments, and gives what `to_score` reads.
Metric: TypeAlias = Callable[..., Any]


class Judge:
    """A metric as evaluations and optimizers call it: every result is a Score."""

    def __init__(self, metric: Metric) -> None:
        self.name = getattr(metric, "__name__", type(metric).__name__)
        self._metric = metric
        self._takes_trace = _takes_trace(metric)

    async def score(
        self,
        example: Example,
        prediction: Prediction,
        trace: Sequence[TraceStep] | None = None,
        *,
        lm: LM | None = None,
        effects: Effects | None = None,
    ) -> Score:
        """Ask the metric; predictors that it awaits use `lm` and `effects`.

        Raises:
            MetricError: what it gives is no score.
            CodeExitError: it called sys.exit(), or the like.
            Exception: whatever it raises.
        """
        try:
            if self._takes_trace:
                found: object = self._metric(example, prediction, trace)
            else:
                found = self._metric(example, prediction)
            if inspect.isawaitable(found):
                _, token = begin_call(lm=lm, effects=effects)
                try:
                    found = await cast(Awaitable[object], found)
                finally:
                    end_call(token)
        except BaseException as error:
            refuse_exit(f"the metric {self.name!r}", error)
            raise
        return to_score(self.name, found)


def to_score(metric: str, found: object) -> Score:
    """Read what a metric gave.

    Raises:
        MetricError: it is neither a bool nor a finite number nor a Score of one.
    """
    value: object = found.value if isinstance(found, Score) else found
    if isinstance(value, Prediction):
        value = value.outputs.get("score")
    if not isinstance(value, int | float) or not math.isfinite(value):
        raise MetricError(metric, found)
    if isinstance(found, Score):
        return Score(float(value), found.feedback)
    return Score(float(value))


def _takes_trace(metric: Metric) -> bool:
    try:
        parameters = inspect.signature(metric).parameters.values()
    except (TypeError, ValueError):
        return False
    if any(p.kind is p.VAR_POSITIONAL for p in parameters):
        return True
    positional = (
        inspect.Parameter.POSITIONAL_ONLY,
        inspect.Parameter.POSITIONAL_OR_KEYWORD,
    )
    return sum(p.kind in positional for p in parameters) >= 3


def normalize(value: object) -> str:
    """Give a text without case, articles, punctuation and surplus spaces, as SQuAD."""
    text = unicodedata.normalize("NFD", str(value)).lower()
    text = "".join(c for c in text if c not in string.punctuation)
    return " ".join(_ARTICLES.sub(" ", text).split())


def exact_match(field: str = "answer") -> Metric:
    """Give a metric: the field is the example's, up to case and punctuation.

    Where the example has a list of answers, any of them will do.
    """

    def exact_match(example: Example, prediction: Prediction) -> bool:
        given = normalize(prediction[field])
        return any(given == normalize(gold) for gold in _golds(example[field]))

    return exact_match


def answer_in_text(field: str = "answer", *, text: str | None = None) -> Metric:
    """Give a metric: the example's field stands somewhere in the prediction's `text`.

    `text` is the prediction's field of the same name unless given. It counts as whole
    words.
    """

    def answer_in_text(example: Example, prediction: Prediction) -> bool:
        words = f" {normalize(prediction[text or field])} "
        golds = [normalize(gold) for gold in _golds(example[field])]
        return any(bool(gold) and f" {gold} " in words for gold in golds)

    return answer_in_text


def f1(field: str = "answer") -> Metric:
    """Give a metric: the F1 of the words in the field, as SQuAD counts it."""

    def f1(example: Example, prediction: Prediction) -> float:
        given = normalize(prediction[field]).split()
        return max(
            (_f1(given, normalize(gold).split()) for gold in _golds(example[field])),
            default=0.0,
        )

    return f1


def numeric(
    field: str = "answer", *, tolerance: float = 0.0, relative: float = 1e-6
) -> Metric:
    """Give a metric: the field's number is the example's, within a tolerance.

    `tolerance` is absolute, `relative` a share of the example's number; the larger of
    the two counts. In a text it is the last number that counts.
    """

    def numeric(example: Example, prediction: Prediction) -> bool:
        wanted, given = _number(example[field]), _number(prediction[field])
        if wanted is None:
            raise MetricError("numeric", example[field])
        return given is not None and math.isclose(
            wanted, given, abs_tol=tolerance, rel_tol=relative
        )

    return numeric


def per_field(metrics: Mapping[str, Metric]) -> Metric:
    """Give a metric: the mean of one metric a field; the feedback has each score.

    `per_field({"city": exact_match("city"), "year": numeric("year")})`.
    """
    judges = {name: Judge(metric) for name, metric in metrics.items()}

    async def per_field(example: Example, prediction: Prediction) -> Score:
        scores = {n: await j.score(example, prediction) for n, j in judges.items()}
        values = [score.value for score in scores.values()]
        said = ", ".join(f"{name} {score.value:g}" for name, score in scores.items())
        return Score(sum(values) / len(values), said)

    return per_field


def _golds(value: object) -> Sequence[object]:
    return cast(Sequence[object], value) if isinstance(value, list | tuple) else [value]


def _f1(given: Sequence[str], gold: Sequence[str]) -> float:
    if not given or not gold:
        return float(given == gold)
    same = sum((Counter(given) & Counter(gold)).values())
    if not same:
        return 0.0
    precision, recall = same / len(given), same / len(gold)
    return 2 * precision * recall / (precision + recall)


def _number(value: object) -> float | None:
    if isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    found = _NUMBER.findall(str(value))
    return float(found[-1].replace(",", "")) if found else None
