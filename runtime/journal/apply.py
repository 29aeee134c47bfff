"""Applying writes: a batch of them in one transaction, grouped for speed."""

import json
from collections.abc import Callable, Iterable, Sequence
from typing import Any, cast

from sqlalchemy import (
    Connection,
    RowMapping,
    delete,
    func,
    insert,
    select,
    update,
)
from sqlalchemy.dialects import postgresql, sqlite

from dspex.runtime.journal import schema
from dspex.runtime.journal.errors import (
    LeaseLostError,
    RunCancelledError,
    RunNotFoundError,
)
from dspex.runtime.journal.reads import program_version, run_row
from dspex.runtime.journal.records import (
    FINISHED,
    UNFINISHED,
    Beat,
    Fence,
    ProgramVersion,
    RunRow,
    WorkerIdentity,
    WorkerRow,
)
from dspex.runtime.journal.writes import (
    AcceptRun,
    AddEvent,
    BuryWorkers,
    CancelRun,
    ClaimRuns,
    FinishRun,
    PruneRuns,
    RecordEffect,
    RegisterWorker,
    ReleaseRuns,
    SaveProgram,
    SendBeat,
    Write,
)

# A write's answer, or the error that only its caller gets.
Answer = object


def apply_writes(connection: Connection, writes: Sequence[Write]) -> list[Answer]:
    """Apply writes inside the open transaction; give an answer for each, in order."""
    answers: list[Answer] = [None] * len(writes)
    groups: dict[type, list[int]] = {}
    for index, write in enumerate(writes):
        groups.setdefault(type(write), []).append(index)
    fences = _Fences(connection, writes)
    for kind, handle in _HANDLERS.items():
        indexes = groups.get(kind)
        if indexes:
            found = handle(connection, [writes[index] for index in indexes], fences)
            for index, answer in zip(indexes, found, strict=True):
                answers[index] = answer
    return answers


class _Fences:
    """Which of a batch's fences hold; the runs stay locked for the transaction."""

    def __init__(self, connection: Connection, writes: Sequence[Write]) -> None:
        wanted = {
            write.fence.run
            for write in writes
            if isinstance(write, RecordEffect | AddEvent | FinishRun)
        }
        columns = schema.run.c
        query = select(columns.id, columns.owner, columns.epoch, columns.state)
        rows = (
            # Sorted, so that two workers lock in one order.
            connection.execute(
                query.where(columns.id.in_(wanted))
                .order_by(columns.id)
                .with_for_update()
            )
            if wanted
            else ()
        )
        self._runs = {row.id: (row.owner, row.epoch, row.state) for row in rows}

    def problem(self, fence: Fence) -> Exception | None:
        """Give why a write under this fence is refused; None if it is not."""
        found = self._runs.get(fence.run)
        if found is None:
            return RunNotFoundError(fence.run)
        owner, epoch, state = found
        if state == "cancelled":
            return RunCancelledError(fence.run)
        if (owner, epoch, state) != (fence.owner, fence.epoch, "running"):
            return LeaseLostError(fence.run, fence.epoch)
        return None

    def has_ended(self, fence: Fence, state: str) -> bool:
        """Whether this very fence ended the run so: the write is asked for again."""
        found = self._runs.get(fence.run)
        return found is not None and found[1:] == (fence.epoch, state)


def _save_programs(
    connection: Connection, writes: Sequence[SaveProgram], _: _Fences
) -> list[Answer]:
    return [_save_program(connection, write) for write in writes]


def _save_program(connection: Connection, write: SaveProgram) -> ProgramVersion:
    table = schema.program
    rows = connection.execute(
        select(table).where(table.c.name == write.name).order_by(table.c.version.desc())
    ).mappings()
    versions = [program_version(row) for row in rows]
    same = [found for found in versions if found.digest == write.digest]
    if same and (not write.always_new or same[0] is versions[0]):
        return same[0]
    newest = versions[0].version if versions else 0
    values = {
        "name": write.name,
        "version": newest + 1,
        "digest": write.digest,
        "body": write.body,
        "parent": write.parent if write.parent is not None else newest or None,
        "made_by": write.made_by,
        "scores": json.dumps(dict(write.scores)),
        "created_at": write.created_at,
    }
    connection.execute(insert(table), values)
    return program_version(cast("RowMapping", values))


def _accept_runs(
    connection: Connection, writes: Sequence[AcceptRun], _: _Fences
) -> list[Answer]:
    table = schema.run
    found = connection.execute(
        select(table.c.id, table.c.owner).where(
            table.c.id.in_([write.id for write in writes])
        )
    )
    known = {row.id: row.owner for row in found}
    answers: list[Answer] = []
    values: list[dict[str, Any]] = []  # Any: a row
    for write in writes:
        if write.id in known:
            answers.append(write.owner is not None and known[write.id] == write.owner)
            continue
        known[write.id] = write.owner
        answers.append(True)
        values.append(
            {
                "id": write.id,
                "program": write.program,
                "version": write.version,
                "state": "pending" if write.owner is None else "running",
                "inputs": write.inputs,
                "options": write.options,
                "owner": write.owner,
                "epoch": 0 if write.owner is None else 1,
                "accepted_at": write.accepted_at,
                "started_at": None if write.owner is None else write.accepted_at,
            }
        )
    if values:
        _insert_new(connection, table, values)
        events = [
            {
                "run": row["id"],
                "at": row["accepted_at"],
                "kind": "accepted",
                "body": json.dumps({"program": row["program"]}),
            }
            for row in values
        ]
        connection.execute(insert(schema.event), events)
    return answers


def _insert_new(connection: Connection, table: Any, values: list[Any]) -> None:
    """Insert rows, leaving out those whose key is there."""  # Any: Table and rows
    make = postgresql.insert if connection.dialect.name == "postgresql" else None
    statement = (make or sqlite.insert)(table).on_conflict_do_nothing()
    connection.execute(statement, values)


def _bury_workers(
    connection: Connection, writes: Sequence[BuryWorkers], _: _Fences
) -> list[Answer]:
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


def _release_runs(
    connection: Connection, writes: Sequence[ReleaseRuns], _: _Fences
) -> list[Answer]:
    run = schema.run.c
    for write in writes:
        connection.execute(
            update(schema.run)
            .where(
                run.id.in_(write.runs),
                run.owner == write.owner,
                run.state == "running",
            )
            .values(owner=None, state="pending")
        )
    return [None] * len(writes)


def _claim_runs(
    connection: Connection, writes: Sequence[ClaimRuns], _: _Fences
) -> list[Answer]:
    return [_claim(connection, write) for write in writes]


def _claim(connection: Connection, write: ClaimRuns) -> list[RunRow]:
    run = schema.run.c
    # Who was buried, or never registered, would keep a run that nobody looks after.
    known = select(schema.worker.c.id).where(schema.worker.c.id == write.owner)
    if connection.scalar(known.with_for_update()) is None:
        return []
    free = (
        select(run.id)
        .where(run.state == "pending")
        .order_by(run.accepted_at, run.id)
        .limit(write.limit)
        .with_for_update(skip_locked=True)
    )
    if write.only is not None:
        free = free.where(run.id.in_(write.only))
    ids = list(connection.scalars(free))
    if not ids:
        return []
    connection.execute(
        update(schema.run)
        .where(run.id.in_(ids))
        .values(
            owner=write.owner,
            state="running",
            epoch=run.epoch + 1,
            started_at=func.coalesce(run.started_at, write.at),
        )
    )
    rows = connection.execute(
        select(schema.run).where(run.id.in_(ids)).order_by(run.accepted_at, run.id)
    )
    return [run_row(row) for row in rows.mappings()]


def _record_effects(
    connection: Connection, writes: Sequence[RecordEffect], fences: _Fences
) -> list[Answer]:
    answers: list[Answer] = [fences.problem(write.fence) for write in writes]
    values = [
        {
            "run": write.fence.run,
            "path": write.path,
            "fingerprint": write.fingerprint,
            "occurrence": write.occurrence,
            "kind": write.kind,
            "request": write.request,
            "response": write.response,
            "usage": write.usage,
            "seconds": write.seconds,
            "finished_at": write.finished_at,
        }
        for write, problem in zip(writes, answers, strict=True)
        if problem is None
    ]
    if values:
        _insert_new(connection, schema.effect, values)
    return answers


def _add_events(
    connection: Connection, writes: Sequence[AddEvent], fences: _Fences
) -> list[Answer]:
    values = [
        {
            "run": write.fence.run,
            "at": write.at,
            "kind": write.kind,
            "body": write.body,
        }
        for write in writes
        if fences.problem(write.fence) is None
    ]
    if values:
        connection.execute(insert(schema.event), values)
    return [None] * len(writes)


def _finish_runs(
    connection: Connection, writes: Sequence[FinishRun], fences: _Fences
) -> list[Answer]:
    answers: list[Answer] = []
    run, effect = schema.run.c, schema.effect.c
    for write in writes:
        problem = fences.problem(write.fence)
        if problem is not None and fences.has_ended(write.fence, write.state):
            answers.append(None)
            continue
        answers.append(problem)
        if problem is not None:
            continue
        connection.execute(
            update(schema.run)
            .where(run.id == write.fence.run)
            .values(
                state=write.state,
                outputs=write.outputs,
                error=write.error,
                steps=write.steps,
                finished_at=write.finished_at,
                owner=None,
            )
        )
        _insert_event(
            connection,
            write.fence.run,
            write.finished_at,
            "finished",
            {"status": write.state, "error": write.error},
        )
        if not write.keep_bodies:
            connection.execute(
                update(schema.effect)
                .where(effect.run == write.fence.run)
                .values(request=None, response=None)
            )
    return answers


def _insert_event(
    connection: Connection, run: str, at: float, kind: str, body: dict[str, object]
) -> None:
    values = {"run": run, "at": at, "kind": kind, "body": json.dumps(body)}
    connection.execute(insert(schema.event), values)


def _cancel_runs(
    connection: Connection, writes: Sequence[CancelRun], _: _Fences
) -> list[Answer]:
    run = schema.run.c
    answers: list[Answer] = []
    for write in writes:
        done = connection.execute(
            update(schema.run)
            .where(run.id == write.id, run.state.in_(UNFINISHED))
            .values(state="cancelled", owner=None, finished_at=write.at)
        )
        if done.rowcount:
            body: dict[str, object] = {"status": "cancelled", "error": None}
            _insert_event(connection, write.id, write.at, "finished", body)
        answers.append(connection.scalar(select(run.state).where(run.id == write.id)))
    return answers


def _register_workers(
    connection: Connection, writes: Sequence[RegisterWorker], _: _Fences
) -> list[Answer]:
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
    _insert_new(connection, schema.worker, values)
    return [None] * len(writes)


def _send_beats(
    connection: Connection, writes: Sequence[SendBeat], _: _Fences
) -> list[Answer]:
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
    mine = connection.scalars(
        select(run.id).where(
            run.id.in_(write.runs), run.owner == write.worker, run.state == "running"
        )
    )
    return Beat(
        is_known=True,
        others=tuple(
            WorkerRow(row.id, row.beat, WorkerIdentity(row.host, row.pid, row.started))
            for row in others
        ),
        lost=frozenset(write.runs) - frozenset(mine),
        has_pending=connection.scalar(
            select(run.id).where(run.state == "pending").limit(1)
        )
        is not None,
    )


def _prune_runs(
    connection: Connection, writes: Sequence[PruneRuns], _: _Fences
) -> list[Answer]:
    run = schema.run.c
    answers: list[Answer] = []
    for write in writes:
        old = run.state.in_(FINISHED) & (run.finished_at < write.before)
        answers.append(connection.execute(delete(schema.run).where(old)).rowcount)
    return answers


_Handler = Callable[[Connection, Sequence[Any], _Fences], Iterable[Answer]]

# In this order inside a batch: what gives rights before what needs them, a run's
# effects and events before its end. Any: each takes the writes of its own class.
_HANDLERS: dict[type, _Handler] = {
    SaveProgram: _save_programs,
    AcceptRun: _accept_runs,
    RecordEffect: _record_effects,
    AddEvent: _add_events,
    FinishRun: _finish_runs,
    CancelRun: _cancel_runs,
    ReleaseRuns: _release_runs,
    BuryWorkers: _bury_workers,
    RegisterWorker: _register_workers,
    SendBeat: _send_beats,
    ClaimRuns: _claim_runs,
    PruneRuns: _prune_runs,
}
