"""Writes: what can be asked of the store's writer, each one whole or not at all.

Each can be asked for again after the writer died with the answer unknown: the second
time finds the first one's rows and changes nothing. Structs, since to make a frozen
dataclass takes a twentieth of what it takes to put an effect on disk.
"""

from collections.abc import Mapping
from typing import TypeAlias

import msgspec

from dspex.runtime.journal.records import Bodies, Fence, RunState, WorkerIdentity


class SaveProgram(msgspec.Struct, frozen=True):
    """Keep a version of a program; gives its ProgramVersion.

    The same text as the newest version (as any version, unless `always_new`) is that
    version.
    """

    name: str
    digest: str
    body: str
    parent: int | None
    made_by: str
    scores: Mapping[str, float]
    created_at: float
    always_new: bool = False


class AcceptRun(msgspec.Struct, frozen=True):
    """Keep a run; with an owner it is running from the start.

    With `is_worker` the owner is to be a worker that is known: a run of one that was
    buried would be looked after by nobody, and is kept as pending. Gives False if the
    id is there already, unless this very write, asked for again, has put it there.
    """

    id: str
    program: str
    version: int
    inputs: str
    options: str
    accepted_at: float
    owner: str | None = None
    is_worker: bool = False


class ClaimRuns(msgspec.Struct, frozen=True):
    """Give up to `limit` pending runs to `owner`, oldest first; gives their rows.

    With `only`, none but those are given; to a worker that is not known, none at all.
    """

    owner: str
    limit: int
    at: float
    only: tuple[str, ...] | None = None


class RecordEffect(msgspec.Struct, frozen=True):
    """Keep a finished effect."""

    fence: Fence
    path: str
    fingerprint: str
    occurrence: int
    kind: str
    request: str | None
    response: str
    usage: str | None
    seconds: float
    finished_at: float


class AddEvent(msgspec.Struct, frozen=True):
    """Keep something that happened; dropped if the fence does not hold."""

    fence: Fence
    at: float
    kind: str
    body: str


class FinishRun(msgspec.Struct, frozen=True):
    """End a run; `bodies` says what is kept of its effects from now on."""

    fence: Fence
    state: RunState
    outputs: str | None
    error: str | None
    steps: str
    finished_at: float
    bodies: Bodies = "keep"


class KeepCancelled(msgspec.Struct, frozen=True):
    """Keep what a run had done that was cancelled under this fence.

    Gives False, and changes nothing, if it was not.
    """

    fence: Fence
    steps: str
    bodies: Bodies = "keep"


class CancelRun(msgspec.Struct, frozen=True):
    """Cancel a run whoever has it; gives the state it has now, None if unknown."""

    id: str
    at: float


class ReleaseRuns(msgspec.Struct, frozen=True):
    """Give runs of an owner back, to be claimed by any worker."""

    owner: str
    runs: tuple[str, ...]


class RegisterWorker(msgspec.Struct, frozen=True):
    """Make a worker known."""

    id: str
    identity: WorkerIdentity


class SendBeat(msgspec.Struct, frozen=True):
    """Show that a worker lives; gives a Beat. `runs` are those it works on."""

    worker: str
    runs: tuple[str, ...]


class BuryWorkers(msgspec.Struct, frozen=True):
    """Forget workers and give their runs back; gives how many runs that were."""

    workers: tuple[str, ...]


class PruneRuns(msgspec.Struct, frozen=True):
    """Forget up to `limit` finished runs that ended before a time; gives how many."""

    before: float
    limit: int


Write: TypeAlias = (
    SaveProgram
    | AcceptRun
    | ClaimRuns
    | RecordEffect
    | AddEvent
    | FinishRun
    | KeepCancelled
    | CancelRun
    | ReleaseRuns
    | RegisterWorker
    | SendBeat
    | BuryWorkers
    | PruneRuns
)


def size_of(write: Write) -> int:
    """Give about how many bytes a write holds: the characters of its long texts."""
    if isinstance(write, RecordEffect):
        return len(write.response) + len(write.request or "")
    if isinstance(write, AddEvent):
        return len(write.body)
    if isinstance(write, AcceptRun):
        return len(write.inputs) + len(write.options)
    if isinstance(write, FinishRun):
        return len(write.outputs or "") + len(write.error or "") + len(write.steps)
    if isinstance(write, KeepCancelled):
        return len(write.steps)
    if isinstance(write, SaveProgram):
        return len(write.body)
    return 0
