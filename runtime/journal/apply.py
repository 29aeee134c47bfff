"""Applying writes: a batch of them in one transaction, grouped for speed."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from sqlalchemy import Connection

from dspex.runtime.journal.apply_effects import add_events, record_effects
from dspex.runtime.journal.apply_programs import save_programs
from dspex.runtime.journal.apply_runs import (
    accept_runs,
    cancel_runs,
    claim_runs,
    finish_runs,
    keep_cancelled,
    prune_runs,
    release_runs,
)
from dspex.runtime.journal.apply_workers import (
    bury_workers,
    register_workers,
    send_beats,
)
from dspex.runtime.journal.fences import Answer, Fences
from dspex.runtime.journal.writes import (
    AcceptRun,
    AddEvent,
    BuryWorkers,
    CancelRun,
    ClaimRuns,
    FinishRun,
    KeepCancelled,
    PruneRuns,
    RecordEffect,
    RegisterWorker,
    ReleaseRuns,
    SaveProgram,
    SendBeat,
    Write,
)

_Handler = Callable[[Connection, Sequence[Any], Fences], Iterable[Answer]]

# In this order inside a batch: what gives rights before what needs them, a run's
# effects and events before its end. Any: each takes the writes of its own class.
_HANDLERS: dict[type, _Handler] = {
    SaveProgram: save_programs,
    AcceptRun: accept_runs,
    RecordEffect: record_effects,
    AddEvent: add_events,
    FinishRun: finish_runs,
    CancelRun: cancel_runs,
    KeepCancelled: keep_cancelled,
    ReleaseRuns: release_runs,
    BuryWorkers: bury_workers,
    RegisterWorker: register_workers,
    SendBeat: send_beats,
    ClaimRuns: claim_runs,
    PruneRuns: prune_runs,
}


def apply_writes(connection: Connection, writes: Sequence[Write]) -> list[Answer]:
    """Apply writes inside the open transaction; give an answer for each, in order."""
    answers: list[Answer] = [None] * len(writes)
    groups: dict[type, list[int]] = {}
    for index, write in enumerate(writes):
        groups.setdefault(type(write), []).append(index)
    fences = Fences(connection, writes)
    for kind, handle in _HANDLERS.items():
        indexes = groups.get(kind)
        if indexes:
            found = handle(connection, [writes[index] for index in indexes], fences)
            for index, answer in zip(indexes, found, strict=True):
                answers[index] = answer
    return answers
