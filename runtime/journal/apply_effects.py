"""Applying writes of what happens in a run: finished effects, and events."""

import json
from collections.abc import Sequence
from hashlib import sha256

from sqlalchemy import Connection, bindparam, select, update

from dspex.runtime.journal import schema
from dspex.runtime.journal.fences import Answer, Fences
from dspex.runtime.journal.records import Bodies
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


def strip_bodies(connection: Connection, run: str, bodies: Bodies) -> None:
    """Put hashes in the place of a run's requests and answers, or nothing."""
    effect = schema.effect.c
    of_run = update(schema.effect).where(effect.run == run)
    if bodies == "drop":
        connection.execute(of_run.values(request=None, response=None))
        return
    keys = (effect.path, effect.fingerprint, effect.occurrence)
    rows = connection.execute(
        select(*keys, effect.request, effect.response).where(effect.run == run)
    ).all()
    hashed = [
        {
            "of_path": row.path,
            "of_fingerprint": row.fingerprint,
            "of_occurrence": row.occurrence,
            "request": _hash(row.request),
            "response": _hash(row.response),
        }
        for row in rows
    ]
    if hashed:
        named = [key == bindparam(f"of_{key.name}") for key in keys]
        connection.execute(of_run.where(*named), hashed)


def _hash(text: str | None) -> str | None:
    if text is None:
        return None
    return json.dumps({"sha256": sha256(text.encode()).hexdigest()})
