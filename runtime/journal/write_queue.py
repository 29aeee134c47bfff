"""WriteQueue: what waits for the store's writer, and who waits for the answers."""

import math
from collections import deque
from typing import Final

import trio
from outcome import Error, Value
from trio.lowlevel import Abort, Task, current_task, reschedule, wait_task_rescheduled

from dspex.runtime.journal.writes import Write, size_of
from dspex.runtime.log import get_logger
from dspex.runtime.timers import Timer, Timers

log = get_logger()

MAX_BATCH: Final = 1_000
MAX_QUEUE: Final = 4 * MAX_BATCH

MAX_BATCH_BYTES: Final = 16 * 1024**2
MAX_QUEUE_BYTES: Final = 4 * MAX_BATCH_BYTES
"""Either may be exceeded by one write, so that a larger one passes, too."""

_QUIET_ROUNDS: Final = 3
"""Turns of the loop in which no write may have come before a commit begins; one is
enough for a large one."""

_LARGE_BATCH: Final = 64

NOTE_SECONDS: Final = 0.1
"""How long a write that nobody waits for may wait for one that somebody does."""


class WriterGoneError(Exception):
    """The writer died with the answer unknown: ask again. For the journal alone."""


class WriteTimeoutError(Exception):
    """No answer came in time. For the journal alone."""


class PendingWrite:
    """A write in the queue or under way, and the task that waits for its answer."""

    __slots__ = ("deadline", "settled", "size", "task", "write")

    def __init__(
        self, write: Write, task: Task | None, deadline: float = math.inf
    ) -> None:
        self.write = write
        self.size = size_of(write)
        self.task = task
        self.deadline = deadline
        self.settled = task is None

    def reply(self, value: object) -> None:
        """Answer who waits, if somebody still does."""
        if not self.settled and self.task is not None:
            self.settled = True
            reschedule(self.task, Value(value))

    def fail(self, error: BaseException) -> None:
        """Raise in who waits, if somebody still does."""
        if not self.settled and self.task is not None:
            self.settled = True
            reschedule(self.task, Error(error))

    def forget(self) -> None:
        """Let go of the write, which was made; the timers keep the rest for a while."""
        del self.write

    def expire(self) -> None:
        """Tell who waits that the time is over; the write may still be made."""
        self.fail(WriteTimeoutError())

    def abandon(self, _: object) -> Abort:
        """Nobody waits any more; the write is made all the same."""
        self.settled = True
        return Abort.SUCCEEDED


class WriteQueue:
    """Writes on their way to the one task that commits them, many at a time.

    One step in it costs a few microseconds: no task, no cancel scope, no message.
    With MAX_QUEUE writes or MAX_QUEUE_BYTES waiting it takes no more: who asks waits
    for room.
    """

    def __init__(self) -> None:
        self.lock = ""
        """Why the last commit was not made, if somebody else's lock kept it."""
        self._waiting: deque[PendingWrite] = deque()
        self._bytes = 0
        self._dropped = 0  # notes, since the last commit
        self._taken: list[PendingWrite] = []
        self._reader: Task | None = None
        self._is_due = False
        self._flush: Timer | None = None
        self._timers: Timers | None = None
        self._opened = trio.Event()
        self._has_room = trio.Event()

    # Those who write

    async def ask(self, write: Write, deadline: float) -> object:
        """Give the answer to a write, which comes when it is on disk.

        Raises:
            WriteTimeoutError: there was none by the deadline.
            WriterGoneError: the writer died; ask again.
            Exception: the write's own.
        """
        while self._timers is None or self._is_full():
            event = self._opened if self._timers is None else self._has_room
            with trio.CancelScope(deadline=deadline) as scope:
                await event.wait()
            if scope.cancelled_caught:
                raise WriteTimeoutError
        pending = PendingWrite(write, current_task(), deadline)
        self._timers.add(pending)
        self._waiting.append(pending)
        self._bytes += pending.size
        self._wake()
        return await wait_task_rescheduled(pending.abandon)

    def note(self, write: Write) -> None:
        """Have a write made with the next commit, or soon; nobody hears of it.

        It is dropped when the queue is full; the log tells how many were.
        """
        if self._is_full():
            self._dropped += 1
            return
        pending = PendingWrite(write, None)
        self._waiting.append(pending)
        self._bytes += pending.size
        if self._flush is None and self._timers is not None and not self._is_due:
            self._flush = Timer(self._timers.now() + NOTE_SECONDS, self._wake)
            self._timers.add(self._flush)

    def _is_full(self) -> bool:
        return len(self._waiting) >= MAX_QUEUE or self._bytes >= MAX_QUEUE_BYTES

    # The one who commits

    def open(self, timers: Timers) -> None:
        """Begin to take writes; `timers` ends the waits that take too long."""
        self._timers = timers
        self._is_due = bool(self._waiting)
        self._opened.set()

    def close(self) -> None:
        """Tell all who wait that the writer is gone."""
        self._timers = None
        self._reader = None
        self._flush = None
        self._opened = trio.Event()
        for pending in (*self._taken, *self._waiting):
            pending.fail(WriterGoneError())
        # What was only noted has nobody who could ask again.
        self._waiting = deque(it for it in self._waiting if it.task is None)
        self._bytes = sum(it.size for it in self._waiting)
        self._taken = []
        self._has_room.set()

    async def take(self) -> list[PendingWrite]:
        """Wait for writes, and give as many as one commit should have."""
        while not self._is_due:
            self._reader = current_task()
            await wait_task_rescheduled(self._stop_reading)
        # Whoever is about to write anyway shall be in this commit.
        size = quiet = 0
        while quiet < _QUIET_ROUNDS and not self._fills_a_batch():
            if quiet and size >= _LARGE_BATCH:
                break
            quiet = 0 if size < len(self._waiting) else quiet + 1
            size = len(self._waiting)
            await trio.lowlevel.checkpoint()
        self._taken = self._take_batch()
        if self._dropped:
            log.warning("events_dropped", events=self._dropped)
            self._dropped = 0
        self._is_due = bool(self._waiting)
        if self._flush is not None:
            self._flush.cancel()
            self._flush = None
        self._has_room.set()
        self._has_room = trio.Event()
        return self._taken

    def _fills_a_batch(self) -> bool:
        return len(self._waiting) >= MAX_BATCH or self._bytes >= MAX_BATCH_BYTES

    def _take_batch(self) -> list[PendingWrite]:
        if not self._fills_a_batch():
            batch = list(self._waiting)
            self._waiting.clear()
            self._bytes = 0
            return batch
        batch, size = [], 0
        while self._waiting and len(batch) < MAX_BATCH and size < MAX_BATCH_BYTES:
            pending = self._waiting.popleft()
            batch.append(pending)
            size += pending.size
        self._bytes -= size
        return batch

    def _wake(self) -> None:
        self._is_due = True
        if self._reader is not None:
            reader, self._reader = self._reader, None
            reschedule(reader)

    def _stop_reading(self, _: object) -> Abort:
        self._reader = None
        return Abort.SUCCEEDED
