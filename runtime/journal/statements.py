"""Statements: the SQL of the busiest writes, compiled once for each database.

SQLAlchemy builds a statement, its parameters and its result anew at each execution,
which costs more than SQLite takes to insert the row. These are plain text, and go to
the driver with tuples.

At each step of a statement SQLite's driver lets go of the interpreter, which a busy
event loop may take a millisecond to give back. So many rows are one step.
"""

from collections.abc import Sequence
from functools import cache
from typing import Any, Final

import msgspec
from sqlalchemy import (
    ARRAY,
    Connection,
    Dialect,
    Table,
    Text,
    Update,
    any_,
    bindparam,
    func,
    select,
    update,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.sql import ClauseElement

from dspex.runtime.journal import schema

ACCEPTED: Final = (
    "id",
    "program",
    "version",
    "state",
    "inputs",
    "options",
    "owner",
    "epoch",
    "accepted_at",
    "started_at",
)
"""The columns of a run that is new, in the order of `insert_run`."""


_AT_ONCE: Final = 64


class Insert:
    """An INSERT of rows; with SQLite, of `_AT_ONCE` of them in one step.

    Fewer are faster a row a step. psycopg sends many at once by itself.
    """

    def __init__(self, sql: str, columns: int, *, is_sqlite: bool) -> None:
        self.sql = sql
        row = f"({', '.join('?' * columns)})"
        self.many = sql.replace(row, ", ".join([row] * _AT_ONCE)) if is_sqlite else ""

    def into(self, cursor: Any, rows: Sequence[Sequence[object]]) -> None:
        """Insert all rows; Any: sqlite3's cursor, or psycopg's."""
        start = 0
        if self.many:
            while len(rows) - start >= _AT_ONCE:
                part = rows[start : start + _AT_ONCE]
                cursor.execute(self.many, [value for row in part for value in row])
                start += _AT_ONCE
        if rest := rows[start:]:
            cursor.executemany(self.sql, rest)


class Statements:
    """The statements for one dialect; parameters are in the order of the columns."""

    def __init__(self, dialect: Dialect) -> None:
        is_sqlite = dialect.name == "sqlite"
        # Any: their classes differ in what they are called with.
        make: Any = type(dialect)
        self._dialect: Any = make(paramstyle="qmark" if is_sqlite else "format")
        self._new: Any = sqlite.insert if is_sqlite else postgresql.insert
        self._is_sqlite = is_sqlite
        self.insert_effect = self._insert(schema.effect)
        self.insert_run = self._insert(schema.run, ACCEPTED)
        self.insert_event = self._insert(schema.event, ("run", "at", "kind", "body"))
        self.finish_run = self._text(_finish_run(), (*_FINISHED, "run_id"))
        self.lock_runs = self._text(_lock_runs(is_sqlite=is_sqlite), ("ids",))
        self.lock_worker = self._text(_lock_worker(is_sqlite=is_sqlite), ("id",))
        self.acceptances = self._text(_acceptances(is_sqlite=is_sqlite), ("ids",))

    def ids(self, ids: Sequence[str]) -> tuple[object]:
        """Give the parameter for a list of ids."""
        return (msgspec.json.encode(ids).decode() if self._is_sqlite else list(ids),)

    def locked(
        self, connection: Connection, ids: Sequence[str]
    ) -> list[tuple[str, str | None, int, str]]:
        """Lock runs, and give of each its id, owner, epoch and state."""
        rows: list[Any] = query(connection, self.lock_runs, self.ids(ids))
        return msgspec.json.decode(rows[0][0]) if self._is_sqlite else rows

    def _insert(self, table: Table, columns: Sequence[str] | None = None) -> Insert:
        names = tuple(columns or table.columns.keys())
        values: dict[str, Any] = {name: bindparam(name) for name in names}
        new = self._new(table).values(values).on_conflict_do_nothing().inline()
        return Insert(self._text(new, names), len(names), is_sqlite=self._is_sqlite)

    def _text(self, statement: ClauseElement, order: Sequence[str]) -> str:
        compiled: Any = statement.compile(dialect=self._dialect)
        if tuple(compiled.positiontup) != tuple(order):
            raise AssertionError(compiled.positiontup)
        return str(compiled)


@cache
def _of(dialect: Dialect) -> Statements:
    return Statements(dialect)


def query(
    connection: Connection, sql: str, parameters: Sequence[object]
) -> list[tuple[Any, ...]]:  # Any: columns
    """Give the rows of a statement."""
    cursor = _driver(connection).execute(sql, parameters)
    rows: list[tuple[Any, ...]] = cursor.fetchall()
    return rows


def execute(
    connection: Connection, statement: str | Insert, rows: Sequence[Sequence[object]]
) -> None:
    """Execute a statement for each row of parameters."""
    cursor = _driver(connection).cursor()
    try:
        if isinstance(statement, Insert):
            statement.into(cursor, rows)
        else:
            cursor.executemany(statement, rows)
    finally:
        cursor.close()


def _driver(connection: Connection) -> Any:  # Any: sqlite3's, or psycopg's
    return connection.connection.driver_connection


def statements(connection: Connection) -> Statements:
    """Give the statements for a connection's database."""
    return _of(connection.dialect)


_FINISHED: Final = ("state", "outputs", "error", "steps", "owner", "finished_at")


def _finish_run() -> Update:
    return (
        update(schema.run)
        .where(schema.run.c.id == bindparam("run_id"))
        .values({name: bindparam(name) for name in _FINISHED})
    )


def _lock_runs(*, is_sqlite: bool) -> ClauseElement:
    columns = schema.run.c
    found = (columns.id, columns.owner, columns.epoch, columns.state)
    if is_sqlite:  # where the transaction has the only lock there is
        packed = func.json_group_array(func.json_array(*found))
        return select(packed).where(_in(is_sqlite=is_sqlite))
    # Sorted, so that two workers lock in one order.
    locked = select(*found).where(_in(is_sqlite=is_sqlite))
    return locked.order_by(columns.id).with_for_update()


def _lock_worker(*, is_sqlite: bool) -> ClauseElement:
    id_ = schema.worker.c.id
    found = select(id_).where(id_ == bindparam("id"))
    return found if is_sqlite else found.with_for_update()


def _acceptances(*, is_sqlite: bool) -> ClauseElement:
    columns = schema.run.c
    query = select(columns.id, columns.owner, columns.accepted_at)
    return query.where(_in(is_sqlite=is_sqlite))


def _in(*, is_sqlite: bool) -> Any:  # Any: a condition
    given: Any = bindparam("ids", type_=Text if is_sqlite else ARRAY(Text))
    if is_sqlite:
        values = func.json_each(given).table_valued("value")
        return schema.run.c.id.in_(select(values.c.value))
    return schema.run.c.id == any_(given)
