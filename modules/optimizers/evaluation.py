"""Evaluation: what came of a program on a dev set."""

import csv
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any, Literal, TypeAlias

from dspex.modules.adapters.values import to_plain
from dspex.modules.optimizers.example import Example
from dspex.modules.optimizers.statistics import confidence_interval
from dspex.modules.prediction import Prediction
from dspex.providers.messages import Usage
from dspex.runtime.errors import DspexError

Status: TypeAlias = Literal["scored", "failed", "timed_out", "skipped"]

_FACTS = ("index", "status", "score", "error", "feedback", "seconds", "calls")


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of one example; `score` is the failure score unless it was scored."""

    index: int
    example: Example
    status: Status
    score: float
    prediction: Prediction | None = None
    error: Exception | None = None
    feedback: str = ""
    seconds: float = 0.0
    calls: int = 0
    replayed: int = 0
    """How many of the calls a journal answered, made by an earlier process."""
    usage: Usage = field(default_factory=Usage)

    def to_json(self) -> dict[str, Any]:  # Any: plain JSON
        """Give the outcome as plain JSON."""
        prediction = None if self.prediction is None else self.prediction.outputs
        return {
            "index": self.index,
            "status": self.status,
            "score": self.score,
            "example": to_plain(dict(self.example)),
            "prediction": None if prediction is None else to_plain(prediction),
            "error": self._error_text(),
            "feedback": self.feedback,
            "seconds": self.seconds,
            "calls": self.calls,
            "usage": self.usage.to_json(),
        }

    def _error_text(self) -> str | None:
        if self.error is None:
            return None
        return f"{type(self.error).__name__}: {self.error}"


@dataclass(frozen=True, slots=True)
class Evaluation:
    """The outcomes of a program on a dev set, in its order.

    `stopped` says why not every example was run, None when all were. Skipped examples
    count in nothing.
    """

    outcomes: tuple[Outcome, ...]
    seconds: float
    stopped: str | None = None

    @property
    def done(self) -> tuple[Outcome, ...]:
        """The outcomes of the examples that were run."""
        return tuple(o for o in self.outcomes if o.status != "skipped")

    @property
    def scores(self) -> list[float]:
        """The scores of the examples that were run."""
        return [outcome.score for outcome in self.done]

    @property
    def score(self) -> float:
        """100 times the mean score, as in dspy; 0.0 when nothing was run."""
        return 100 * fmean(self.scores) if self.scores else 0.0

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % confidence interval of `score`."""
        low, high = confidence_interval(self.scores)
        return 100 * low, 100 * high

    @property
    def errors(self) -> int:
        """How many examples failed or timed out."""
        return sum(outcome.error is not None for outcome in self.outcomes)

    @property
    def calls(self) -> int:
        """How many model calls were answered."""
        return sum(outcome.calls for outcome in self.outcomes)

    @property
    def replayed(self) -> int:
        """How many of them a journal answered, made by an earlier process."""
        return sum(outcome.replayed for outcome in self.outcomes)

    @property
    def usage(self) -> Usage:
        """The tokens of all model calls."""
        return sum((outcome.usage for outcome in self.outcomes), start=Usage())

    def worst(self, count: int = 10) -> Sequence[Outcome]:
        """Give the outcomes with the lowest scores, failed ones first."""
        return sorted(
            self.done, key=lambda o: (o.score, o.status == "scored", o.index)
        )[:count]

    def __str__(self) -> str:
        low, high = self.interval
        failed = f", {self.errors} failed" if self.errors else ""
        cut = f", stopped: {self.stopped}" if self.stopped else ""
        return (
            f"{self.score:.1f} (95 % CI {low:.1f} to {high:.1f}) on "
            f"{len(self.done)} examples{failed}{cut}"
        )

    def save_jsonl(self, path: str | Path) -> None:
        """Write one JSON object an example.

        Raises:
            OSError: the file cannot be written.
        """
        lines = [json.dumps(o.to_json(), ensure_ascii=False) for o in self.outcomes]
        Path(path).write_text("\n".join(lines) + "\n", encoding="utf-8")

    def save_csv(self, path: str | Path) -> None:
        """Write one row an example, with the columns `example.X` and `prediction.X`.

        Raises:
            OSError: the file cannot be written.
        """
        rows = [_flat(outcome.to_json()) for outcome in self.outcomes]
        columns = list(dict.fromkeys(name for row in rows for name in row))
        with Path(path).open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, columns, restval="")
            writer.writeheader()
            writer.writerows(rows)


class EvaluationFailedError(DspexError):
    """Too many examples failed; `evaluation` has what was done, `cause` the last error.

    It is here, and not among the other errors, because it carries an evaluation.
    """

    def __init__(self, evaluation: Evaluation, cause: Exception) -> None:
        super().__init__(
            f"{evaluation.errors} of {len(evaluation.done)} examples failed, which is "
            f"as many as max_errors allows; the last: {type(cause).__name__}: {cause}"
        )
        self.evaluation = evaluation
        self.cause = cause


def _flat(outcome: dict[str, Any]) -> dict[str, object]:  # Any: plain JSON
    row: dict[str, object] = {name: outcome[name] for name in _FACTS}
    for group in ("example", "prediction"):
        values: dict[str, Any] = outcome[group] or {}  # Any: as above
        for name, value in values.items():
            text = value if isinstance(value, str) else json.dumps(value)
            row[f"{group}.{name}"] = text
    return row
