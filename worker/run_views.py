"""Run views: runs as the HTTP API shows them, from memory or from the store."""

from contextlib import suppress
from typing import Any

import trio

from dspex.runtime.journal import RunCancelledError, RunRow, RunSummary, StoreError
from dspex.worker.app import Runtime
from dspex.worker.durable import stored_error
from dspex.worker.run_record import Status
from dspex.worker.stored_cost import stored_cost

JSON = dict[str, Any]  # Any: JSON


async def view_run(
    runtime: Runtime,
    run: str,
    *,
    wait: float = 0.0,
    waits: set[trio.CancelScope] | None = None,
) -> JSON:
    """Give a run, once it has ended or after `wait` seconds.

    While it waits its scope is in `waits`: who cancels it has the run as it is then.

    Raises:
        RunNotFoundError: there is no such run.
    """
    table = runtime.table
    if wait > 0:
        open_waits = set[trio.CancelScope]() if waits is None else waits
        with trio.move_on_after(wait) as scope:
            open_waits.add(scope)
            try:
                await _wait_finished(runtime, run)
            finally:
                open_waits.discard(scope)
    if not runtime.has_store or (table.has(run) and table.get(run).is_finished):
        return table.get(run).to_json()
    shown = _stored(await runtime.journal.run(run))
    if not shown["steps"] and table.has(run):
        shown["steps"] = table.get(run).to_json()["steps"]
    return shown


async def _wait_finished(runtime: Runtime, run: str) -> None:
    if not runtime.has_store:
        await runtime.table.wait_finished(run)
        return
    with suppress(RunCancelledError, StoreError):
        await runtime.result(run)


async def find_run(runtime: Runtime, beginning: str) -> str:
    """Give the id of the one run whose id is this, or begins with it.

    Raises:
        RunNotFoundError: there is none.
        AmbiguousRunError: there are several.
    """
    if runtime.has_store and not runtime.table.has(beginning):
        return await runtime.journal.find_run(beginning)
    return runtime.table.find(beginning)


async def view_runs(
    runtime: Runtime,
    *,
    status: Status | None,
    program: str | None,
    before: str | None,
    limit: int,
) -> list[JSON]:
    """List runs, newest first; `before` is the id that the page goes on after.

    Raises:
        RunNotFoundError: there is no run `before`.
    """
    if not runtime.has_store:
        table = runtime.table
        oldest = None if before is None else table.get(before).number
        found: list[JSON] = []
        for record in table:
            if len(found) >= limit:
                break
            if (
                (status is None or record.status == status)
                and (program is None or record.program.name == program)
                and (oldest is None or record.number < oldest)
            ):
                found.append(record.summary())
        return found
    journal = runtime.journal
    last: tuple[float, str] | None = None
    if before is not None:
        last = (await journal.run(before)).accepted_at, before
    rows = await journal.summaries(
        states=() if status is None else (status,),
        program=program,
        before=last,
        limit=limit,
    )
    return [_summary(row) for row in rows]


def is_finished(view: JSON) -> bool:
    """Whether the status of a shown run is final."""
    return view["status"] not in ("pending", "running")


def _summary(row: RunRow | RunSummary) -> JSON:
    return {
        "run_id": row.id,
        "program": row.program,
        "status": row.state,
        "accepted_at": row.accepted_at,
        "finished_at": row.finished_at,
    }


def _stored(row: RunRow) -> JSON:
    error = stored_error(row)
    return {
        **_summary(row),
        "inputs": row.inputs,
        "outputs": row.outputs or {},
        "steps": row.steps or [],
        "cost_usd": stored_cost(row),
        "error": None if error is None else str(error),
    }
