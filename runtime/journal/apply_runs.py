"""Applying writes of runs: accepted, claimed, given back, ended, forgotten."""

import time
from collections.abc import Sequence

import msgspec
from sqlalchemy import Connection, RowMapping, delete, func, insert, select, update

from dspex.runtime.journal import schema
from dspex.runtime.journal.apply_effects import strip_bodies
from dspex.runtime.journal.errors import StoreRowError
from dspex.runtime.journal.fences import Answer, Fences
from dspex.runtime.journal.reads import damage_text, run_row
from dspex.runtime.journal.records import FINISHED, UNFINISHED, RunRow
from dspex.runtime.journal.statements import execute, query, statements
from dspex.runtime.journal.writes import (
    AcceptRun,
    CancelRun,
    ClaimRuns,
    FinishRun,
    KeepCancelled,
    PruneRuns,
    ReleaseRuns,
)


def accept_runs(
    connection: Connection, writes: Sequence[AcceptRun], _: Fences
) -> list[Answer]:
    """Keep new runs; tell of each whether it is there by this very write."""
    sql = statements(connection)
    ids = sql.ids([write.id for write in writes])
    known = {row[0]: row[1:] for row in query(connection, sql.acceptances, ids)}
    workers = _known_workers(connection, writes)
    answers: list[Answer] = []
    rows: list[tuple[object, ...]] = []
    events: list[tuple[object, ...]] = []
    for write in writes:
        owner, at = write.owner, write.accepted_at
        if write.id in known:
            its_owner, its_at = known[write.id]
            answers.append(its_at == at and its_owner in (owner, None))
            continue
        if write.is_worker and owner not in workers:
            owner = None
        known[write.id] = (owner, at)
        answers.append(True)
        rows.append(
            (
                write.id,
                write.program,
                write.version,
                "pending" if owner is None else "running",
                write.inputs,
                write.options,
                owner,
                0 if owner is None else 1,
                at,
                None if owner is None else at,
            )
        )
        body = _json({"program": write.program})
        events.append((write.id, at, "accepted", body))
    if rows:
        execute(connection, sql.insert_run, rows)
        execute(connection, sql.insert_event, events)
    return answers


def _known_workers(connection: Connection, writes: Sequence[AcceptRun]) -> set[str]:
    sql = statements(connection)
    owners = {it.owner for it in writes if it.owner is not None and it.is_worker}
    return {it for it in owners if query(connection, sql.lock_worker, [it])}


def finish_runs(
    connection: Connection, writes: Sequence[FinishRun], fences: Fences
) -> list[Answer]:
    """End runs, each whose fence holds."""
    sql = statements(connection)
    answers: list[Answer] = []
    rows: list[tuple[object, ...]] = []
    events: list[tuple[object, ...]] = []
    for write in writes:
        run, at = write.fence.run, write.finished_at
        problem = fences.problem(write.fence)
        if problem is not None and fences.has_ended(write.fence, write.state):
            answers.append(None)
            continue
        answers.append(problem)
        if problem is not None:
            continue
        rows.append(
            (write.state, write.outputs, write.error, write.steps, None, at, run)
        )
        body = _json({"status": write.state, "error": write.error})
        events.append((run, at, "finished", body))
        if write.bodies != "keep":
            strip_bodies(connection, run, write.bodies)
    if rows:
        execute(connection, sql.finish_run, rows)
        execute(connection, sql.insert_event, events)
    return answers


def keep_cancelled(
    connection: Connection, writes: Sequence[KeepCancelled], fences: Fences
) -> list[Answer]:
    """Keep the steps of cancelled runs; tell of each whether it was cancelled."""
    run = schema.run.c
    answers: list[Answer] = []
    for write in writes:
        answers.append(fences.has_ended(write.fence, "cancelled"))
        if answers[-1]:
            this = update(schema.run).where(run.id == write.fence.run)
            connection.execute(this.values(steps=write.steps))
            if write.bodies != "keep":
                strip_bodies(connection, write.fence.run, write.bodies)
    return answers


def release_runs(
    connection: Connection, writes: Sequence[ReleaseRuns], _: Fences
) -> list[Answer]:
    """Give runs back, to be claimed by any worker."""
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


def claim_runs(
    connection: Connection, writes: Sequence[ClaimRuns], _: Fences
) -> list[Answer]:
    """Give pending runs to workers; give the rows."""
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
    return [
        found for row in rows.mappings().all() if (found := _sound(connection, row))
    ]


def _sound(connection: Connection, row: RowMapping) -> RunRow | None:
    """Give a claimed run; one whose row is damaged fails here, and is given to none."""
    try:
        return run_row(row)
    except StoreRowError as error:
        text, at = damage_text(error), time.time()
    connection.execute(
        update(schema.run)
        .where(schema.run.c.id == row["id"])
        .values(state="failed", error=text, owner=None, finished_at=at)
    )
    body: dict[str, object] = {"status": "failed", "error": text}
    _insert_event(connection, row["id"], at, "finished", body)
    return None


def _insert_event(
    connection: Connection, run: str, at: float, kind: str, body: dict[str, object]
) -> None:
    values = {"run": run, "at": at, "kind": kind, "body": _json(body)}
    connection.execute(insert(schema.event), values)


def cancel_runs(
    connection: Connection, writes: Sequence[CancelRun], _: Fences
) -> list[Answer]:
    """Cancel runs; give the state that each has now."""
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


def prune_runs(
    connection: Connection, writes: Sequence[PruneRuns], _: Fences
) -> list[Answer]:
    """Forget finished runs; give how many."""
    run = schema.run.c
    answers: list[Answer] = []
    for write in writes:
        old = run.state.in_(FINISHED) & (run.finished_at < write.before)
        # For the index: what ended before was accepted before, too.
        old &= run.accepted_at < write.before
        some = select(run.id).where(old).limit(write.limit)
        gone = connection.execute(delete(schema.run).where(run.id.in_(some)))
        answers.append(gone.rowcount)
    return answers


def _json(value: dict[str, object]) -> str:
    return msgspec.json.encode(value).decode()
