"""Fences: which workers still have the right to write for their runs."""

from collections.abc import Sequence

from sqlalchemy import Connection

from dspex.runtime.journal.errors import (
    LeaseLostError,
    RunCancelledError,
    RunNotFoundError,
)
from dspex.runtime.journal.records import Fence
from dspex.runtime.journal.statements import statements
from dspex.runtime.journal.writes import (
    AddEvent,
    FinishRun,
    KeepCancelled,
    RecordEffect,
    Write,
)

_FENCED = (RecordEffect, AddEvent, FinishRun, KeepCancelled)

# A write's answer, or the error that only its caller gets.
Answer = object


class Fences:
    """Which of a batch's fences hold; the runs stay locked for the transaction.

    One query for the whole batch, made when the first fence is looked at, so that it
    sees the runs that the batch itself has accepted.
    """

    def __init__(self, connection: Connection, writes: Sequence[Write]) -> None:
        self._connection = connection
        self._writes = writes
        self._runs: dict[str, tuple[str | None, int, str]] | None = None

    def problem(self, fence: Fence) -> Exception | None:
        """Give why a write under this fence is refused; None if it is not."""
        found = self._found().get(fence.run)
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
        found = self._found().get(fence.run)
        return found is not None and found[1:] == (fence.epoch, state)

    def _found(self) -> dict[str, tuple[str | None, int, str]]:
        if self._runs is None:
            wanted = {
                write.fence.run for write in self._writes if isinstance(write, _FENCED)
            }
            rows = statements(self._connection).locked(self._connection, list(wanted))
            self._runs = {row[0]: (row[1], row[2], row[3]) for row in rows}
        return self._runs
