"""Run: one execution of a program, and what is told of it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

RunStatus = Literal["succeeded", "failed"]


@dataclass(slots=True)
class StepRecord:
    """What is known of one step of a run."""

    name: str
    backend: str
    seconds: float = 0.0
    usage: Mapping[str, int] = field(default_factory=dict[str, int])
    restarts: int = 0
    """How often it was dispatched again because what ran it had died."""

    def to_json(self) -> dict[str, Any]:  # Any: JSON
        """Give plain data."""
        return {
            "name": self.name,
            "backend": self.backend,
            "seconds": round(self.seconds, 3),
            "usage": dict(self.usage),
            "restarts": self.restarts,
        }


@dataclass(frozen=True, slots=True)
class Run:
    """A finished run: its outputs or its error, and a record for each step."""

    id: str
    program: str
    status: RunStatus
    outputs: Mapping[str, Any]  # Any: whatever the signatures say
    steps: tuple[StepRecord, ...]
    error: Exception | None = None

    def raise_for_status(self) -> "Run":
        """Give the run itself if it succeeded, else raise its error."""
        if self.error is not None:
            raise self.error
        return self

    def to_json(self) -> dict[str, Any]:  # Any: JSON
        """Give plain data, as `dspex run --json` prints it."""
        return {
            "run_id": self.id,
            "status": self.status,
            "outputs": dict(self.outputs),
            "steps": [record.to_json() for record in self.steps],
            "error": None if self.error is None else str(self.error),
        }
