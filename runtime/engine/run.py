"""Run: one execution of a program, and what is told of it."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Self

from pydantic_core import to_jsonable_python

from dspex.runtime.engine.errors import UnknownOutputError
from dspex.runtime.journal import RunCancelledError

RunStatus = Literal["succeeded", "failed", "cancelled"]
StepState = Literal["pending", "running", "succeeded", "failed", "skipped", "cancelled"]


@dataclass(frozen=True, slots=True)
class StepInFlight:
    """A step that runs now; `started` is on trio's clock."""

    run: str
    program: str
    step: str
    backend: str
    started: float


@dataclass(slots=True)
class StepRecord:
    """What is known of one step of a run."""

    name: str
    backend: str
    state: StepState = "pending"
    """Skipped: its `when` did not hold, or what it needs was not there. Cancelled: it
    was under way when its run ended."""
    attempts: int = 0
    """How often it was begun: retries and restarts included."""
    seconds: float = 0.0
    usage: Mapping[str, int] = field(default_factory=dict[str, int])
    cost_usd: float | None = 0.0
    """What its model calls cost, in this process or an earlier one, with those of
    attempts that failed; None where a price is not known."""
    restarts: int = 0
    """How often it was dispatched again because what ran it had died."""
    started_at: float | None = None
    """When it was started, in seconds of the epoch."""
    live: int = 0
    """How many effects (model calls, python steps) were made."""
    journaled: int = 0
    """How many effects the journal answered, paid for by an earlier process."""
    error: str | None = None

    def to_json(self) -> dict[str, Any]:  # Any: JSON
        """Give plain data."""
        return {
            "name": self.name,
            "backend": self.backend,
            "state": self.state,
            "attempts": self.attempts,
            "seconds": round(self.seconds, 3),
            "usage": dict(self.usage),
            "cost_usd": self.cost_usd,
            "restarts": self.restarts,
            "started_at": self.started_at,
            "live": self.live,
            "journaled": self.journaled,
            "error": self.error,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:  # Any: JSON
        """Read what `to_json` gave."""
        known: dict[str, Any] = {"cost_usd": None, **data}  # Any: JSON
        return cls(**known)


@dataclass(frozen=True, slots=True)
class Run:
    """A finished run: what it gave, or its error, and a record for each step."""

    id: str
    program: str
    steps: tuple[StepRecord, ...]
    given: Mapping[str, Any]  # Any: whatever the signatures say
    error: Exception | None = None
    finished_at: float | None = field(default=None, compare=False)
    """When it ended, as the store has it; None without one."""

    def __repr__(self) -> str:
        told = dict(self.given) if self.error is None else repr(self.error)
        return f"<Run {self.id} of {self.program!r} {self.status}: {told}>"

    @property
    def status(self) -> RunStatus:
        """How it ended."""
        if self.error is None:
            return "succeeded"
        return "cancelled" if isinstance(self.error, RunCancelledError) else "failed"

    @property
    def cost_usd(self) -> float | None:
        """What its model calls cost in US dollars; None where a price is not known."""
        return total_cost(record.cost_usd for record in self.steps)

    @property
    def outputs(self) -> Mapping[str, Any]:  # Any: whatever the signatures say
        """The program's outputs by name; a failed run raises its error here."""
        if self.error is not None:
            # Without those that it was raised with before, which would add up.
            raise self.error.with_traceback(None)
        return _Outputs(self.program, self.given)

    def to_json(self) -> dict[str, Any]:  # Any: JSON
        """Give plain data, as `dspex run --json` prints it."""
        return {
            "run_id": self.id,
            "status": self.status,
            "outputs": to_jsonable_python(dict(self.given), fallback=str),
            "steps": [record.to_json() for record in self.steps],
            "cost_usd": self.cost_usd,
            "error": None if self.error is None else str(self.error),
        }


class _Outputs(dict[str, Any]):  # Any: whatever the signatures say
    """Outputs by name, whose KeyError says which there are."""

    def __init__(self, program: str, given: Mapping[str, Any]) -> None:
        super().__init__(given)
        self._program = program

    def __missing__(self, name: str) -> Any:  # Any: it never returns
        raise UnknownOutputError(self._program, name, tuple(self))


def total_cost(costs: Iterable[float | None]) -> float | None:
    """Give the sum of costs; None if one is not known."""
    total = 0.0
    for cost in costs:
        if cost is None:
            return None
        total += cost
    return total
