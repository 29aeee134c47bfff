"""Store: the database behind the journal, as threads see it."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, TypeVar

from sqlalchemy import Connection
from sqlalchemy.exc import DataError, IntegrityError, ProgrammingError

from dspex.runtime.journal.apply import Answer, apply_writes
from dspex.runtime.journal.connect import connect, faults, store_url
from dspex.runtime.journal.errors import (
    StoreCorruptError,
    StoreError,
    StoreVersionError,
)
from dspex.runtime.journal.migrate import migrate
from dspex.runtime.journal.writes import Write

T = TypeVar("T")

READERS: Final = 4
"""Connections that read, apart from the one that writes."""


class Store:
    """One database; every method blocks, and is to be called from a thread."""

    def __init__(self, store: str | Path) -> None:
        self.url = store_url(store)
        self.engine = connect(self.url, writes=True, connections=1)
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
        with faults(self.url), self.engine.begin() as connection:
            migrate(
                connection,
                newer=lambda problem: StoreVersionError(self.name, problem),
                foreign=lambda problem: StoreCorruptError(self.name, problem),
            )

    def write(self, writes: Sequence[Write]) -> list[Answer]:
        """Apply writes in one commit; give each its answer, or its own error.

        Raises:
            StoreError: nothing was written.
        """
        try:
            with faults(self.url), self.engine.begin() as connection:
                return apply_writes(connection, writes)
        except StoreError as error:
            bad_row = isinstance(
                error.__cause__, IntegrityError | DataError | ProgrammingError
            )
            if not bad_row or len(writes) == 1:
                raise
        # One of them is at fault: the others must not suffer.
        return [self._write_alone(write) for write in writes]

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
        with faults(self.url), self._readers.begin() as connection:
            return query(connection)

    def close(self) -> None:
        """Close every connection."""
        self.engine.dispose()
        self._readers.dispose()
