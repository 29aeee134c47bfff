"""What a module actor tells about itself: immutable, a moment's view."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dspex.modules.parameter import Parameter
from dspex.modules.prediction import Prediction
from dspex.providers.messages import Usage


@dataclass(frozen=True, slots=True)
class Execution:
    """One forward that ended: its inputs, and its prediction or its error."""

    inputs: Mapping[str, Any]  # Any: as the module declares them
    prediction: Prediction | None
    error: Exception | None
    seconds: float


@dataclass(frozen=True, slots=True)
class ModuleMetrics:
    """How the forwards went; seconds are of the last 1,000 that ended.

    `cost` is in the unit of the actor's `price`; `restarts` is known where the actor
    has `snapshots`.
    """

    succeeded: int
    failed: int
    running: int
    waiting: int
    mean_seconds: float
    p50_seconds: float
    p95_seconds: float
    usage: Usage
    cost: float
    restarts: int

    @property
    def count(self) -> int:
        """How many forwards have ended."""
        return self.succeeded + self.failed


@dataclass(frozen=True, slots=True)
class ModuleState:
    """A module actor at one moment: its parameters, last executions and metrics."""

    name: str
    kind: str
    version: int
    parameters: Mapping[str, Parameter]
    executions: tuple[Execution, ...]
    metrics: ModuleMetrics
