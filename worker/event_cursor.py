"""EventCursor: how far somebody has read the events of a run, wherever they are."""

from dataclasses import replace
from typing import Final

import trio

from dspex.worker.durable import POLL_SECONDS, DurableDesk
from dspex.worker.run_record import RunEvent
from dspex.worker.runs import RunTable

_LAST: Final = "finished"


class EventCursor:
    """Reads a run's events in order: from this process, or from the store.

    What is in the store has numbers of its own, so whoever reads on from the one in the
    other gets some events twice; none is left out, and the end is always told.
    """

    __slots__ = ("_desk", "_is_told", "_table", "_was_here", "after", "run")

    def __init__(
        self, table: RunTable, desk: DurableDesk | None, run: str, *, after: int
    ) -> None:
        self.run = run
        self.after = after
        self._table = table
        self._desk = desk
        self._is_told = False
        self._was_here: bool | None = None

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
            if record.last_seq > self.after:
                found = [it for it in record.events if it.seq > self.after]
            elif record.is_finished:
                return None
        else:
            found, is_over = await self._desk.look_events(self.run, after=self.after)
            if not found and is_over:
                found = await self._end(self._desk)
                if not found:
                    return None
        if found:
            self.after = found[-1].seq
            self._is_told = found[-1].kind == _LAST
        return found

    async def _end(self, desk: DurableDesk) -> list[RunEvent]:
        """Give the end, if it has a lower number than what was read elsewhere."""
        if self._is_told:
            return []
        every, _ = await desk.look_events(self.run, after=0)
        if not every or every[-1].seq >= self.after:
            return []
        return [replace(every[-1], seq=self.after + 1)]

    async def wait(self) -> None:
        """Wait until there may be more, after `take` gave none."""
        if self.is_here:
            await self._table.get(self.run).wait_changed()
        else:
            await trio.sleep(POLL_SECONDS)
