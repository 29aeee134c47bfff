"""JournalWriter: the one task that writes to the store, many writes a commit."""

from collections import deque
from collections.abc import Sequence
from typing import Final, Protocol

import trio

from dspex.runtime import Actor, Deferred
from dspex.runtime.journal.errors import StoreError
from dspex.runtime.journal.writes import Write

MAX_BATCH: Final = 1_000
MAX_QUEUE: Final = 4 * MAX_BATCH


class WritableStore(Protocol):
    """What the writer needs of a store."""

    def write(self, writes: Sequence[Write]) -> list[object]:
        """Apply writes in one commit; give each its answer, or its own error."""
        ...


class JournalWriter(Actor):
    """Writes what lies in its queue with one commit, and then what has come since.

    An answer means that the write is on disk. When the store cannot be written, the
    callers get the StoreError and the writer lives on: it tries with the next batch.
    With MAX_QUEUE writes waiting it takes no more: callers wait at its mailbox.
    """

    def __init__(self, store: WritableStore, limiter: trio.CapacityLimiter) -> None:
        self._store = store
        # Shared by all incarnations: a killed one's commit ends before the next.
        self._limiter = limiter
        self._queue: deque[tuple[Write, Deferred[object]]] = deque()
        self._is_writing = False
        self._has_room = trio.Event()

    async def write(self, write: Write) -> Deferred[object]:
        """Write it; the answer comes when it is on disk.

        Raises:
            StoreError: it could not be written.
            DspexError: its own answer, such as LeaseLostError.
        """
        while len(self._queue) >= MAX_QUEUE:
            self._has_room = trio.Event()
            await self._has_room.wait()
        answer: Deferred[object] = self.deferred()
        self._queue.append((write, answer))
        if not self._is_writing:
            self._is_writing = True
            self.spawn(self._write_all)
        return answer

    async def _write_all(self) -> None:
        try:
            while self._queue:
                await self._let_others_in()
                size = min(len(self._queue), MAX_BATCH)
                batch = [self._queue.popleft() for _ in range(size)]
                self._has_room.set()
                await self._commit(batch)
        finally:
            self._is_writing = False

    async def _let_others_in(self) -> None:
        # Whoever is about to write anyway shall be in this commit.
        size = 0
        while size < len(self._queue) < MAX_BATCH:
            size = len(self._queue)
            await trio.lowlevel.checkpoint()
            await trio.lowlevel.checkpoint()

    async def _commit(self, batch: list[tuple[Write, Deferred[object]]]) -> None:
        try:
            answers = await trio.to_thread.run_sync(
                self._store.write, [write for write, _ in batch], limiter=self._limiter
            )
        except StoreError as error:
            for _, waiting in batch:
                waiting.fail(error)
            return
        for answer, (_, waiting) in zip(answers, batch, strict=True):
            if isinstance(answer, Exception):
                waiting.fail(answer)
            else:
                waiting.reply(answer)
