"""Store: the database behind the journal, as threads see it."""

import os
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final, TypeVar

from sqlalchemy import Connection

from dspex.runtime.journal.apply import apply_writes
from dspex.runtime.journal.connect import connect, faults, store_url
from dspex.runtime.journal.errors import (
    StoreCorruptError,
    StoreError,
    StoreMovedError,
    StoreRowError,
    StoreVersionError,
)
from dspex.runtime.journal.fences import Answer
from dspex.runtime.journal.migrate import migrate
from dspex.runtime.journal.writes import Write

T = TypeVar("T")

READERS: Final = 4
"""Connections that read, apart from the one that writes."""

# What a row is refused with, whatever else is in the batch: by SQLAlchemy and by the
# drivers, whose classes of these names are classes apart.
_BAD_ROWS: Final = {"IntegrityError", "DataError", "ProgrammingError"}


class Store:
    """One database; every method blocks, and is to be called from a thread."""

    def __init__(self, store: str | Path) -> None:
        self.url = store_url(store)
        self.engine = connect(self.url, writes=True, connections=1)
        self._writer: Connection | None = None
        # The file that is open, and what it was then: its device and inode.
        self._file = ""
        self._opened: tuple[int, int] | None = None
        self._readers = connect(self.url, writes=False, connections=READERS)

    @property
    def name(self) -> str:
        """The URL, without its password."""
        return self.url.render_as_string()

    def open(self) -> None:
        """Create or upgrade the tables where needed.

        Raises:
            StoreError: the database cannot be used; says why, and what to do.
        """
        with faults(self.engine), self.engine.begin() as connection:
            migrate(
                connection,
                newer=lambda problem: StoreVersionError(self.name, problem),
                foreign=lambda problem: StoreCorruptError(self.name, problem),
            )
            if self.engine.dialect.name == "sqlite":
                databases = connection.exec_driver_sql("PRAGMA database_list")
                self._file = databases.all()[0][2]
                self._opened = self._identity()

    def write(self, writes: Sequence[Write]) -> list[Answer]:
        """Apply writes in one commit; give each its answer, or its own error.

        Raises:
            StoreError: nothing was written.
        """
        try:
            with faults(self.engine), self._transaction() as connection:
                return apply_writes(connection, writes)
        except StoreError as error:
            is_one = isinstance(error, StoreRowError) or _is_bad_row(error.__cause__)
            if not is_one or len(writes) == 1:
                raise
        # One of them is at fault: the others must not suffer.
        return [self._write_alone(write) for write in writes]

    def _identity(self) -> tuple[int, int] | None:
        try:
            found = os.stat(self._file)
        except OSError:
            return None
        return found.st_dev, found.st_ino

    def _look_moved(self) -> None:
        """See that the open file is the one at its path, where all others look.

        Raises:
            StoreMovedError: it is not; what is written would be lost.
        """
        if self._opened is not None and (found := self._identity()) != self._opened:
            what = "deleted" if found is None else "replaced by another"
            raise StoreMovedError(self.name, f"its file was {what} while it was open")

    @contextmanager
    def _transaction(self) -> Generator[Connection]:
        if self.engine.dialect.name != "sqlite":
            # From the pool, which looks whether the server is still there.
            with self.engine.begin() as connection:
                yield connection
            return
        # Before a new connection, too, which would make a new file.
        self._look_moved()
        if self._writer is None:
            self._writer = self.engine.connect()
        try:
            with self._writer.begin():
                yield self._writer
                self._look_moved()
        except BaseException:
            # What a fault leaves of a connection is not used again.
            self.release()
            raise

    def release(self) -> None:
        """Give the connection that writes back; the next write takes one again."""
        writer, self._writer = self._writer, None
        if writer is not None:
            writer.close()

    def _write_alone(self, write: Write) -> Answer:
        try:
            return self.write([write])[0]
        except StoreError as error:
            return error

    def read(self, query: Callable[[Connection], T]) -> T:
        """Give what a query finds, as of one moment.

        Raises:
            StoreError: the database cannot be read.
        """
        self._look_moved()
        with faults(self._readers), self._readers.begin() as connection:
            return query(connection)

    def close(self) -> None:
        """Close every connection."""
        self.release()
        self.engine.dispose()
        self._readers.dispose()


def _is_bad_row(cause: BaseException | None) -> bool:
    return not _BAD_ROWS.isdisjoint(kind.__name__ for kind in type(cause).__mro__)
