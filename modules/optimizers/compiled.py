"""Compiled: a program that an optimizer made, and how it came about."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from dspex.modules.module import Module
from dspex.providers.messages import Usage

M = TypeVar("M", bound=Module)


@dataclass(frozen=True, slots=True)
class DemoSource:
    """Where a demo comes from: the index in the training set, the teacher's score.

    `score` is None for a labeled demo and without a metric.
    """

    example: int
    bootstrapped: bool
    score: float | None = None


@dataclass(frozen=True, slots=True)
class Report:
    """How a program was compiled.

    `demos` says for each predictor where its demos come from, in their order.
    `attempts` counts the tries that were needed, `extra_examples` the training examples
    that were run ahead for nothing, `extra_calls` the model calls these made. `calls`
    (those that were answered), `usage` and `seconds` count everything; `replayed` of
    the calls were answered by a journal, made by an earlier process. `stopped` says why
    it ended early, None when it did not.
    """

    optimizer: str
    demos: Mapping[str, tuple[DemoSource, ...]]
    bootstrapped: int = 0
    attempts: int = 0
    errors: int = 0
    extra_examples: int = 0
    extra_calls: int = 0
    calls: int = 0
    replayed: int = 0
    usage: Usage = field(default_factory=Usage)
    seconds: float = 0.0
    stopped: str | None = None

    def to_json(self) -> dict[str, Any]:  # Any: plain JSON
        """Give the report as plain JSON."""
        return {
            "optimizer": self.optimizer,
            "demos": {
                name: [
                    {
                        "example": source.example,
                        "bootstrapped": source.bootstrapped,
                        "score": source.score,
                    }
                    for source in sources
                ]
                for name, sources in self.demos.items()
            },
            "bootstrapped": self.bootstrapped,
            "attempts": self.attempts,
            "errors": self.errors,
            "extra_examples": self.extra_examples,
            "extra_calls": self.extra_calls,
            "calls": self.calls,
            "replayed": self.replayed,
            "usage": self.usage.to_json(),
            "seconds": self.seconds,
            "stopped": self.stopped,
        }


@dataclass(frozen=True, slots=True)
class Compiled(Generic[M]):
    """A program that an optimizer made; the one it was made from is as it was."""

    program: M
    report: Report
