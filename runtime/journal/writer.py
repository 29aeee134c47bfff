"""JournalWriter: the one actor that writes to the store, many writes a commit."""

from collections.abc import Sequence
from typing import Protocol

import trio

from dspex.runtime import Actor
from dspex.runtime.journal.errors import StoreError, StoreLockedError
from dspex.runtime.journal.write_queue import PendingWrite, WriteQueue
from dspex.runtime.journal.writes import Write
from dspex.runtime.threads import run_in_thread


class WritableStore(Protocol):
    """What the writer needs of a store."""

    def write(self, writes: Sequence[Write]) -> list[object]:
        """Apply writes in one commit; give each its answer, or its own error."""
        ...


class JournalWriter(Actor):
    """Writes what lies in the queue with one commit, and then what has come since.

    An answer means that the write is on disk. When the store cannot be written, the
    callers get the StoreError and the writer lives on: it tries with the next batch.
    """

    def __init__(
        self, store: WritableStore, queue: WriteQueue, limiter: trio.CapacityLimiter
    ) -> None:
        self._store = store
        self._queue = queue
        # Shared by all incarnations: a killed one's commit ends before the next.
        self._limiter = limiter

    async def init(self) -> None:
        """Begin to write."""
        self._queue.open(self.ref.port.timers)
        self.spawn(self._write_all)

    async def _write_all(self) -> None:
        try:
            while True:
                await self._commit(await self._queue.take())
        finally:
            self._queue.close()

    async def _commit(self, batch: list[PendingWrite]) -> None:
        try:
            answers = await run_in_thread(
                self._store.write,
                [pending.write for pending in batch],
                limiter=self._limiter,
            )
        except StoreError as error:
            is_locked = isinstance(error, StoreLockedError)
            self._queue.lock = error.problem if is_locked else ""
            for pending in batch:
                pending.forget()
                pending.fail(error)
            return
        self._queue.lock = ""
        for answer, pending in zip(answers, batch, strict=True):
            pending.forget()
            if isinstance(answer, Exception):
                pending.fail(answer)
            else:
                pending.reply(answer)
