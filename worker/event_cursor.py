"""EventCursor: how far somebody has read the events of a run, wherever they are."""

import time
from operator import attrgetter
from typing import Final

from msgspec.structs import replace

from dspex.worker.durable import DurableDesk
from dspex.worker.run_record import RunEvent, RunRecord
from dspex.worker.run_texts import Piece, TextCursor
from dspex.worker.runs import RunTable

DELTA: Final = "delta"
"""The kind of an event that has text of a step; it is not kept."""

_LAST: Final = "finished"


class EventCursor:
    """Reads a run's events in order: from this process, or from the store.

    What is in the store has numbers of its own, so whoever reads on from the one in the
    other gets some events twice; none is left out, and the end is always told.

    With `texts` what steps write comes between the events, as events of the kind
    `delta`: each has the number of the event before it, and is told once.
    """

    __slots__ = (
        "_desk",
        "_is_told",
        "_table",
        "_texts",
        "_was_here",
        "_with_texts",
        "after",
        "run",
    )

    def __init__(
        self,
        table: RunTable,
        desk: DurableDesk | None,
        run: str,
        *,
        after: int,
        texts: bool = True,
    ) -> None:
        self.run = run
        self.after = after
        self._table = table
        self._desk = desk
        self._is_told = False
        self._was_here: bool | None = None
        self._with_texts = texts
        self._texts: TextCursor | None = None

    @property
    def is_here(self) -> bool:
        """Whether this process has the run, and tells of its events."""
        return self._desk is None or self._table.has(self.run)

    async def take(self) -> list[RunEvent] | None:
        """Give the events that are there by now, maybe none; None: the run is over.

        Raises:
            RunNotFoundError: there is no such run.
        """
        if self._was_here not in (None, self.is_here):
            self.after = 0
        self._was_here = self.is_here
        if self._desk is None or self.is_here:
            record = self._table.get(self.run)
            if record.last_seq < self.after:
                self.after = 0  # a number of the store
            found: list[RunEvent] = []
            pieces = self._pieces(record)
            if record.last_seq > self.after:
                found = [it for it in record.events if it.seq > self.after]
            elif record.is_finished and not pieces:
                return None
            if pieces:
                self._note_read(found)
                return _merged(found, pieces, self.run)
        else:
            found, is_over = await self._desk.look_events(self.run, after=self.after)
            if not found and self.is_here:
                return await self.take()  # it has come here meanwhile
            if not found and is_over:
                found = await self._end(self._desk)
                if not found:
                    return None
        self._note_read(found)
        return found

    def _note_read(self, found: list[RunEvent]) -> None:
        if found:
            self.after = found[-1].seq
            self._is_told = found[-1].kind == _LAST

    def _pieces(self, record: RunRecord) -> list[Piece]:
        # A record that is finished may have let go of its texts; of a run that has come
        # back to this process there are others.
        texts = record.texts
        if texts is not None and (
            self._texts is None or self._texts.texts is not texts
        ):
            self._texts = TextCursor(texts) if self._with_texts else None
        return [] if self._texts is None else self._texts.take(after=self.after)

    async def _end(self, desk: DurableDesk) -> list[RunEvent]:
        """Give the end, if it has a lower number than what was read elsewhere."""
        if self._is_told:
            return []
        every, _ = await desk.look_events(self.run, after=0)
        if not every or every[-1].seq >= self.after:
            return []
        return [replace(every[-1], seq=self.after + 1)]

    async def next(self) -> list[RunEvent]:
        """Give the next events, and wait for them; none: the run is over.

        Raises:
            RunNotFoundError: there is no such run.
        """
        while (batch := await self.take()) is not None:
            if batch:
                return batch
            await self.wait()
        return []

    async def wait(self) -> None:
        """Wait until there may be more, after `take` gave none."""
        if self.is_here:
            await self._table.get(self.run).wait_changed()
        elif self._desk is not None:
            await self._desk.wait_to_look()


def _merged(events: list[RunEvent], pieces: list[Piece], run: str) -> list[RunEvent]:
    """Give both in the order in which they came about."""
    now = time.time()
    deltas = [RunEvent(it.after, run, DELTA, now, it.facts) for it in pieces]
    # Text comes after the event whose number it has, and sorting leaves that order.
    return sorted([*events, *deltas], key=attrgetter("seq"))
