"""Applying writes of what happens in a run: finished effects, and events."""

from collections.abc import Sequence

from sqlalchemy import Connection

from dspex.runtime.journal.fences import Answer, Fences
from dspex.runtime.journal.statements import execute, statements
from dspex.runtime.journal.writes import AddEvent, RecordEffect


def record_effects(
    connection: Connection, writes: Sequence[RecordEffect], fences: Fences
) -> list[Answer]:
    """Keep effects, each whose fence holds; one that is there already stays."""
    answers: list[Answer] = [fences.problem(write.fence) for write in writes]
    rows = [
        (
            write.fence.run,
            write.path,
            write.fingerprint,
            write.occurrence,
            write.kind,
            write.request,
            write.response,
            write.usage,
            write.seconds,
            write.finished_at,
        )
        for write, problem in zip(writes, answers, strict=True)
        if problem is None
    ]
    if rows:
        execute(connection, statements(connection).insert_effect, rows)
    return answers


def add_events(
    connection: Connection, writes: Sequence[AddEvent], fences: Fences
) -> list[Answer]:
    """Keep events, each whose fence holds."""
    rows = [
        (write.fence.run, write.at, write.kind, write.body)
        for write in writes
        if fences.problem(write.fence) is None
    ]
    if rows:
        execute(connection, statements(connection).insert_event, rows)
    return [None] * len(writes)
