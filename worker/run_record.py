"""RunRecord: one run that this process knows of, and the events of it."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal, Protocol, TypeAlias, get_args

import msgspec
import trio
from pydantic_core import to_jsonable_python

from dspex.runtime.engine import Program, Run, StepRecord
from dspex.runtime.recent import Recent, memory_bytes
from dspex.worker.run_texts import RunTexts

Status: TypeAlias = Literal["pending", "running", "succeeded", "failed", "cancelled"]

STATUSES: Final[tuple[Status, ...]] = get_args(Status)
UNFINISHED: Final = ("pending", "running")
MAX_EVENTS: Final = 1_000
MAX_EVENTS_BYTES: Final = 4 * 1024 * 1024

# Of an event and a record, without texts.
_EVENT_BYTES: Final = 500
_RECORD_BYTES: Final = 2_000


# A struct: a run makes nine, and a frozen dataclass takes five times as long.
class RunEvent(msgspec.Struct, frozen=True):
    """One thing that happened in a run; `at` is in seconds since the epoch."""

    seq: int
    run: str
    kind: str
    at: float
    data: Mapping[str, Any]  # Any: JSON

    def to_json(self) -> dict[str, Any]:  # Any: JSON
        """Give plain data."""
        return {
            "seq": self.seq,
            "run_id": self.run,
            "kind": self.kind,
            "at": self.at,
            **self.data,
        }


class Follower(Protocol):
    """Who wants to be woken by each event of a run."""

    def wake(self) -> None:
        """Hear that there is one; runs no code of others."""
        ...


@dataclass(slots=True)
class RunRecord:
    """One run: what it was asked, how far it is, what came out."""

    id: str
    program: Program
    inputs: Mapping[str, Any]  # Any: as the signatures declare
    key: str | None = None
    number: int = 0
    """Counts the runs of this process."""
    status: Status = "pending"
    accepted_at: float = field(default_factory=time.time)
    finished_at: float | None = None
    run: Run | None = None
    error: Exception | None = None
    progress: dict[str, StepRecord] = field(default_factory=dict[str, StepRecord])
    """How far its steps are."""
    events: Recent[RunEvent] = field(
        default_factory=lambda: Recent[RunEvent](
            most=MAX_EVENTS, max_bytes=MAX_EVENTS_BYTES
        )
    )
    last_seq: int = 0
    texts: RunTexts | None = None
    """What its steps with `options.stream` write."""
    scope: trio.CancelScope | None = None
    """Of the task that runs it, where one of this process does."""
    followers: set[Follower] = field(default_factory=set[Follower])
    _changed: trio.Event | None = None
    _ended: trio.Event | None = None

    @property
    def is_finished(self) -> bool:
        """Whether its status is final."""
        return self.status not in UNFINISHED

    @property
    def size_bytes(self) -> int:
        """About how many bytes it takes."""
        size = _RECORD_BYTES + self.events.size_bytes + memory_bytes(self.inputs)
        if self.run is not None:
            size += memory_bytes(self.run.given)
        if self.error is not None:
            size += memory_bytes(self.error)
        return size if self.texts is None else size + self.texts.size_bytes

    def note(self, kind: str, **data: Any) -> None:  # Any: JSON
        """Add an event and wake who waits for one."""
        self.last_seq += 1
        event = RunEvent(self.last_seq, self.id, kind, time.time(), data)
        # Of the others none has a text.
        has_text = "prompt" in data or "completion" in data
        self.events.add(event, _EVENT_BYTES + (memory_bytes(data) if has_text else 0))
        self.wake()

    def wake(self) -> None:
        """Wake who waits for an event, or for text."""
        if self._changed is not None:
            self._changed.set()
            self._changed = None
        for follower in self.followers:
            follower.wake()

    async def wait_changed(self) -> None:
        """Wait for the next event, or for text."""
        if self._changed is None:
            self._changed = trio.Event()
        await self._changed.wait()

    async def wait_finished(self) -> None:
        """Wait for the end; what happens until then wakes nobody."""
        if self.is_finished:
            await trio.lowlevel.checkpoint()
            return
        if self._ended is None:
            self._ended = trio.Event()
        await self._ended.wait()

    def finish(self, status: Status, run: Run | None, error: Exception | None) -> None:
        """Give it its final status."""
        self.status, self.run, self.error = status, run, error
        at = None if run is None else run.finished_at
        self.finished_at = time.time() if at is None else at
        if self.texts is not None and not self.texts.is_kept:
            self.texts = None
        text = None if error is None else str(error)
        self.note("finished", status=status, error=text)
        if self._ended is not None:
            self._ended.set()

    def summary(self) -> dict[str, Any]:  # Any: JSON
        """Give what a list of runs shows."""
        return {
            "run_id": self.id,
            "program": self.program.name,
            "status": self.status,
            "accepted_at": self.accepted_at,
            "finished_at": self.finished_at,
        }

    def to_json(self) -> dict[str, Any]:  # Any: JSON
        """Give all of it but the events."""
        steps = self.progress.values() if self.run is None else self.run.steps
        given = {} if self.run is None else dict(self.run.given)
        return {
            **self.summary(),
            "inputs": to_jsonable_python(dict(self.inputs), fallback=str),
            "outputs": to_jsonable_python(given, fallback=str),
            "steps": [it.to_json() for it in steps],
            "cost_usd": None if self.run is None else self.run.cost_usd,
            "error": None if self.error is None else str(self.error),
        }
