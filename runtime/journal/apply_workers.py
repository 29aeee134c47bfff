"""Applying writes of workers: who is there, and what becomes of the dead."""

from collections.abc import Sequence

from sqlalchemy import Connection, delete, select, update
from sqlalchemy.dialects import postgresql, sqlite

from dspex.runtime.journal import schema
from dspex.runtime.journal.fences import Answer, Fences
from dspex.runtime.journal.records import Beat, WorkerIdentity, WorkerRow
from dspex.runtime.journal.writes import BuryWorkers, RegisterWorker, SendBeat


def register_workers(
    connection: Connection, writes: Sequence[RegisterWorker], _: Fences
) -> list[Answer]:
    """Make workers known."""
    values = [
        {
            "id": write.id,
            "beat": 0,
            "host": write.identity.host,
            "pid": write.identity.pid,
            "started": write.identity.started,
        }
        for write in writes
    ]
    make = postgresql.insert if connection.dialect.name == "postgresql" else None
    statement = (make or sqlite.insert)(schema.worker).on_conflict_do_nothing()
    connection.execute(statement, values)
    return [None] * len(writes)


def send_beats(
    connection: Connection, writes: Sequence[SendBeat], _: Fences
) -> list[Answer]:
    """Raise the beats; give each worker its Beat."""
    return [_send_beat(connection, write) for write in writes]


def _send_beat(connection: Connection, write: SendBeat) -> Beat:
    worker, run = schema.worker.c, schema.run.c
    done = connection.execute(
        update(schema.worker)
        .where(worker.id == write.worker)
        .values(beat=worker.beat + 1)
    )
    if not done.rowcount:
        return Beat(is_known=False)
    others = connection.execute(select(schema.worker).where(worker.id != write.worker))
    mine = frozenset(
        connection.scalars(
            select(run.id).where(run.owner == write.worker, run.state == "running")
        )
    )
    return Beat(
        is_known=True,
        others=tuple(
            WorkerRow(row.id, row.beat, WorkerIdentity(row.host, row.pid, row.started))
            for row in others
        ),
        lost=frozenset(write.runs) - mine,
        unasked=mine - frozenset(write.runs),
        has_pending=connection.scalar(
            select(run.id).where(run.state == "pending").limit(1)
        )
        is not None,
    )


def bury_workers(
    connection: Connection, writes: Sequence[BuryWorkers], _: Fences
) -> list[Answer]:
    """Forget workers; give how many runs each burial gave back."""
    run, worker = schema.run.c, schema.worker.c
    answers: list[Answer] = []
    for write in writes:
        back = connection.execute(
            update(schema.run)
            .where(run.owner.in_(write.workers), run.state == "running")
            .values(owner=None, state="pending")
        )
        connection.execute(delete(schema.worker).where(worker.id.in_(write.workers)))
        answers.append(back.rowcount)
    return answers
