"""The metrics by field, for dspy's process, which imports a metric by its name.

`dspex.modules.optimizers.dspy_metrics:exact_match.answer` is `exact_match("answer")`,
called as the optimizers of dspy call a metric.
"""

from collections.abc import Callable
from typing import Any, Final

from dspex.modules.optimizers import metrics
from dspex.modules.optimizers.metrics import Metric

BY_FIELD: Final[dict[str, Callable[[str], Metric]]] = {
    "answer_in_text": metrics.answer_in_text,
    "exact_match": metrics.exact_match,
    "f1": metrics.f1,
    "numeric": metrics.numeric,
}


def dspy_metric(text: str) -> str | None:
    """Give what dspy's process imports for `NAME:FIELD`; None for no such metric."""
    name, _, field = text.partition(":")
    if name not in BY_FIELD or not field.isidentifier():
        return None
    return f"{__name__}:{name}.{field}"


class _ByField:
    def __init__(self, make: Callable[[str], Metric]) -> None:
        self._make = make

    def __getattr__(self, field: str) -> Callable[..., Any]:  # Any: as dspy wants it
        metric: Any = self._make(field)

        def judge(example: Any, prediction: Any, *_: object) -> Any:
            return metric(example, prediction)

        return judge


def __getattr__(name: str) -> _ByField:
    if name in BY_FIELD:
        return _ByField(BY_FIELD[name])
    raise AttributeError(name)
