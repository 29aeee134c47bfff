"""Records: the rows of the store as plain data. Times are seconds of the epoch."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal, TypeAlias

import msgspec

RunState = Literal["pending", "running", "succeeded", "failed", "cancelled"]

Bodies = Literal["keep", "hash", "drop"]
"""What is left of requests and answers when a run has ended."""

UNFINISHED: Final[tuple[RunState, ...]] = ("pending", "running")
FINISHED: Final[tuple[RunState, ...]] = ("succeeded", "failed", "cancelled")

Json: TypeAlias = Any  # JSON of any shape; who wrote it knows which


@dataclass(frozen=True, slots=True)
class ProgramVersion:
    """One immutable version of a program: its text, and where it came from."""

    name: str
    version: int
    digest: str
    body: Json
    parent: int | None
    made_by: str
    scores: Mapping[str, float]
    created_at: float


@dataclass(frozen=True, slots=True)
class RunRow:
    """A run as the store has it."""

    id: str
    program: str
    version: int
    state: RunState
    inputs: Json
    options: Json
    outputs: Json
    error: str | None
    steps: Json
    owner: str | None
    epoch: int
    accepted_at: float
    started_at: float | None
    finished_at: float | None

    @property
    def is_finished(self) -> bool:
        """Whether nothing more will happen to it."""
        return self.state in FINISHED


@dataclass(frozen=True, slots=True)
class RunSummary:
    """What a list tells of a run: all but what it was given and gave."""

    id: str
    program: str
    version: int
    state: RunState
    accepted_at: float
    finished_at: float | None

    @property
    def is_finished(self) -> bool:
        """Whether nothing more will happen to it."""
        return self.state in FINISHED


@dataclass(frozen=True, slots=True)
class EffectRow:
    """A finished effect: what was asked, what came back, what it took."""

    path: str
    fingerprint: str
    occurrence: int
    kind: str
    request: Json
    response: Json
    usage: Mapping[str, float]
    """Tokens by kind, and `cost_usd` where the price is known."""
    seconds: float
    finished_at: float


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened to a run; `number` grows with time."""

    number: int
    run: str
    at: float
    kind: str
    body: Json


@dataclass(frozen=True, slots=True)
class WorkerIdentity:
    """Which process a worker is, so that others on its machine can see it die."""

    host: str
    pid: int
    started: str


@dataclass(frozen=True, slots=True)
class WorkerRow:
    """A worker that shares the store; `beat` grows while it lives."""

    id: str
    beat: int
    identity: WorkerIdentity


class Fence(msgspec.Struct, frozen=True):
    """The right to write for a run: its owner, in the epoch of its claim."""

    run: str
    owner: str
    epoch: int


@dataclass(frozen=True, slots=True)
class Beat:
    """What a worker learns with each beat of its heart."""

    is_known: bool
    others: tuple[WorkerRow, ...] = ()
    lost: frozenset[str] = field(default_factory=frozenset[str])
    """Those of its runs that are not its own any more, or were cancelled."""
    unasked: frozenset[str] = field(default_factory=frozenset[str])
    """Runs that the store has as its own, running, and of which it did not speak."""
    has_pending: bool = False
    """Whether runs wait to be claimed."""
