"""Reading the store: programs, runs, effects and events as records."""

import json
from collections.abc import Sequence
from typing import Any, Final

from sqlalchemy import Connection, RowMapping, Select, select

from dspex.runtime.journal import schema
from dspex.runtime.journal.errors import (
    AmbiguousRunError,
    RunNotFoundError,
    StoreRowError,
    VersionNotFoundError,
)
from dspex.runtime.journal.records import (
    UNFINISHED,
    EffectRow,
    Event,
    Json,
    ProgramVersion,
    RunRow,
    RunSummary,
)

# A statement takes so many parameters and no more.
_ASK_AT_ONCE: Final = 1_000


def program_version(row: RowMapping) -> ProgramVersion:
    """Give a row of the program table as a record.

    Raises:
        StoreRowError: it is damaged.
    """
    which = f"version {row['version']} of program {row['name']!r}"
    return ProgramVersion(
        name=row["name"],
        version=row["version"],
        digest=row["digest"],
        body=_load(row["body"], which, "body"),
        parent=row["parent"],
        made_by=row["made_by"],
        scores=_load(row["scores"], which, "scores"),
        created_at=row["created_at"],
    )


def run_row(row: RowMapping) -> RunRow:
    """Give a row of the run table as a record.

    Raises:
        StoreRowError: it is damaged.
    """
    which = f"run {row['id']!r}"
    return RunRow(
        id=row["id"],
        program=row["program"],
        version=row["version"],
        state=row["state"],
        inputs=_load(row["inputs"], which, "inputs"),
        options=_load(row["options"], which, "options") or {},
        outputs=_load(row["outputs"], which, "outputs"),
        error=row["error"],
        steps=_load(row["steps"], which, "steps"),
        owner=row["owner"],
        epoch=row["epoch"],
        accepted_at=row["accepted_at"],
        started_at=row["started_at"],
        finished_at=row["finished_at"],
    )


def listed_run(row: RowMapping) -> RunRow:
    """Give a row as `run_row` does; of a damaged one its error, and no bodies."""
    try:
        return run_row(row)
    except StoreRowError as error:
        bodies = dict.fromkeys(("inputs", "options", "outputs", "steps"))
        # Any: the columns of a row, which SQLAlchemy hands out untyped.
        sound: Any = {**row, **bodies, "error": damage_text(error)}
        return run_row(sound)


def damage_text(error: StoreRowError) -> str:
    """Give the error of a damaged run as it is kept."""
    return json.dumps({"kind": type(error).__name__, "message": str(error)})


def _load(text: str | None, row: str, column: str) -> Json:
    if text is None:
        return None
    try:
        return json.loads(text)
    except (ValueError, TypeError, RecursionError) as error:
        raise StoreRowError(row, column, str(error)) from error


def read_program(
    connection: Connection, name: str, version: int | None
) -> ProgramVersion:
    """Give a version of a program, the newest for None.

    Raises:
        VersionNotFoundError: it is not there.
    """
    table = schema.program
    query = select(table).where(table.c.name == name)
    if version is not None:
        query = query.where(table.c.version == version)
    found = connection.execute(query.order_by(table.c.version.desc()).limit(1))
    row = found.mappings().first()
    if row is None:
        raise VersionNotFoundError(name, version)
    return program_version(row)


def read_programs(connection: Connection, name: str | None) -> list[ProgramVersion]:
    """Give the versions of one program, or of all, oldest first."""
    table = schema.program
    query = select(table).order_by(table.c.name, table.c.version)
    if name is not None:
        query = query.where(table.c.name == name)
    return [program_version(row) for row in connection.execute(query).mappings()]


def read_run(connection: Connection, run: str) -> RunRow:
    """Give a run.

    Raises:
        RunNotFoundError: it is not there.
    """
    found = connection.execute(select(schema.run).where(schema.run.c.id == run))
    row = found.mappings().first()
    if row is None:
        raise RunNotFoundError(run)
    return run_row(row)


def read_owners(connection: Connection, runs: Sequence[str]) -> dict[str, str | None]:
    """Give who has each of these runs that is unfinished; None: it is pending."""
    run, found = schema.run.c, dict[str, str | None]()
    for start in range(0, len(runs), _ASK_AT_ONCE):
        asked = run.id.in_(runs[start : start + _ASK_AT_ONCE])
        query = select(run.id, run.owner).where(asked, run.state.in_(UNFINISHED))
        found.update((row.id, row.owner) for row in connection.execute(query))
    return found


def find_run(connection: Connection, beginning: str) -> str:
    """Give the id of the one run whose id is this, or begins with it.

    Raises:
        RunNotFoundError: there is none.
        AmbiguousRunError: there are several.
    """
    # Ids are hexadecimal: in any collation `g` comes after all that begin so.
    between = schema.run.c.id.between(beginning, f"{beginning}g")
    query = select(schema.run.c.id).where(between).order_by(schema.run.c.id).limit(2)
    ids: list[str] = list(connection.scalars(query))
    found = [it for it in ids if it.startswith(beginning)]
    if not found or not beginning:
        raise RunNotFoundError(beginning)
    if len(found) > 1 and found[0] != beginning:
        raise AmbiguousRunError(beginning)
    return found[0]


def read_runs(connection: Connection, **which: Any) -> list[RunRow]:  # Any: of a page
    """Give the runs of a page, as `_page` finds them."""
    query = _page(select(schema.run), **which)
    return [listed_run(row) for row in connection.execute(query).mappings()]


def read_summaries(
    connection: Connection,
    **which: Any,  # Any: of a page
) -> list[RunSummary]:
    """Give the runs of a page, as `_page` finds them, without their bodies."""
    columns = [schema.run.c[name] for name in RunSummary.__slots__]
    query = _page(select(*columns), **which)
    return [RunSummary(**row) for row in connection.execute(query).mappings()]


def _page(
    query: Select[Any],  # Any: whichever columns
    *,
    states: Sequence[str],
    program: str | None,
    before: tuple[float, str] | None,
    limit: int,
) -> Select[Any]:
    """Find the newest runs in any of these states (empty: in all), newest first.

    `before` is when the last run of the page before was accepted, and its id.
    """
    columns = schema.run.c
    query = query.order_by(columns.accepted_at.desc(), columns.id)
    if states:
        query = query.where(columns.state.in_(states))
    if program is not None:
        query = query.where(columns.program == program)
    if before is not None:
        at, last = before
        # In the order above, of which the index has the times.
        query = query.where(
            columns.accepted_at <= at, (columns.accepted_at < at) | (columns.id > last)
        )
    return query.limit(limit)


def read_effects(connection: Connection, run: str) -> list[EffectRow]:
    """Give the finished effects of a run, in the order in which they finished."""
    columns = schema.effect.c
    rows = connection.execute(
        select(schema.effect).where(columns.run == run).order_by(columns.finished_at)
    )
    which = f"run {run!r}"
    return [
        EffectRow(
            path=row.path,
            fingerprint=row.fingerprint,
            occurrence=row.occurrence,
            kind=row.kind,
            request=_load(row.request, which, "effect.request"),
            response=_load(row.response, which, "effect.response"),
            usage=_load(row.usage, which, "effect.usage") or {},
            seconds=row.seconds,
            finished_at=row.finished_at,
        )
        for row in rows
    ]


def read_responses(
    connection: Connection, run: str
) -> dict[tuple[str, str, int], Json]:
    """Give the responses to a run's finished effects, without the requests."""
    columns = schema.effect.c
    key = columns.path, columns.fingerprint, columns.occurrence
    rows = connection.execute(select(*key, columns.response).where(columns.run == run))
    which = f"run {run!r}"
    return {
        (row.path, row.fingerprint, row.occurrence): _load(
            row.response, which, "effect.response"
        )
        for row in rows
    }


def read_events(connection: Connection, run: str, *, after: int) -> list[Event]:
    """Give what happened to a run after the event of that number."""
    columns = schema.event.c
    rows = connection.execute(
        select(schema.event)
        .where(columns.run == run, columns.number > after)
        .order_by(columns.number)
    )
    which = f"run {run!r}"
    return [
        Event(
            row.number, row.run, row.at, row.kind, _load(row.body, which, "event.body")
        )
        for row in rows
    ]
