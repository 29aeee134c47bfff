"""Errors of data sets, metrics and optimizers.

DspexError
├── DatasetError           a data set cannot be read or used: says which row
├── MetricError            a metric gave something that is no score
├── ItemTimeoutError       an example took too long, its metric included
├── EvaluationFailedError  too many examples of an evaluation failed (evaluation.py)
├── CompileError           a program cannot be compiled as asked
└── BootstrapFailedError   too many training examples failed
"""

from dspex.modules.errors import shorten
from dspex.runtime.errors import DspexError


class DatasetError(DspexError):
    """A data set cannot be read or used; `place` says where in it."""

    def __init__(self, place: str, problem: str) -> None:
        super().__init__(f"{place}: {problem}")
        self.place = place
        self.problem = problem


class MetricError(DspexError):
    """A metric gave something that is no score."""

    def __init__(self, metric: str, value: object) -> None:
        super().__init__(
            f"metric {metric} gave {shorten(value)}: "
            "give a finite number, a bool or a Score"
        )
        self.metric = metric
        self.value = value


class ItemTimeoutError(DspexError):
    """An example took longer than `seconds`, its metric included."""

    def __init__(self, seconds: float) -> None:
        super().__init__(f"no score within {seconds:g} s: raise `timeout`")
        self.seconds = seconds


class CompileError(DspexError):
    """A program cannot be compiled as asked."""

    def __init__(self, optimizer: str, problem: str) -> None:
        super().__init__(f"{optimizer} cannot compile: {problem}")
        self.optimizer = optimizer
        self.problem = problem


class BootstrapFailedError(DspexError):
    """Too many tries failed; `cause` is the last one's error.

    The student is as it was.
    """

    def __init__(self, errors: int, example: int, cause: Exception) -> None:
        super().__init__(
            f"{errors} tries failed, which is as many as max_errors allows; the last, "
            f"on training example {example}: {type(cause).__name__}: {cause}"
        )
        self.errors = errors
        self.example = example
        self.cause = cause
