"""Mailboxes: bounded queues with back-pressure, FIFO for each sender."""

from collections import deque

import trio

from dspex.runtime.envelope import DEFAULT_CAPACITY, Envelope, Request


class Mailbox:
    """The envelopes that wait for one actor.

    `capacity` bounds what lies inside. Senders beyond it wait in arrival order;
    each of them is a task that is blocked, so nothing grows without bound. Signals
    of the kernel (exits, stops) always find room.
    """

    __slots__ = ("_queue", "_reader", "_waiting", "capacity", "high_water")

    def __init__(self, capacity: int = DEFAULT_CAPACITY) -> None:
        if capacity < 1:
            raise ValueError(f"mailbox capacity must be at least 1, not {capacity}")
        self.capacity = capacity
        self.high_water = 0
        self._queue: deque[Envelope] = deque()
        self._waiting: deque[tuple[Envelope, trio.lowlevel.Task | None]] = deque()
        self._reader: trio.lowlevel.Task | None = None

    @property
    def depth(self) -> int:
        """How many envelopes lie inside."""
        return len(self._queue)

    def put_or_queue(self, request: Request) -> None:
        """Put a call in, or let it wait its turn: its caller is blocked anyway."""
        if self._waiting or len(self._queue) >= self.capacity:
            self._waiting.append((request, None))
        else:
            self.put_signal(request)

    def put_nowait(self, envelope: Envelope) -> bool:
        """Put an envelope in; False if there is no room."""
        if self._waiting or len(self._queue) >= self.capacity:
            return False
        self.put_signal(envelope)
        return True

    async def put(self, envelope: Envelope) -> None:
        """Put an envelope in; wait for room. If cancelled, it was not put."""
        if self.put_nowait(envelope):
            return
        entry = (envelope, trio.lowlevel.current_task())
        self._waiting.append(entry)

        def abort(_: object) -> trio.lowlevel.Abort:
            self._waiting.remove(entry)
            return trio.lowlevel.Abort.SUCCEEDED

        await trio.lowlevel.wait_task_rescheduled(abort)

    def put_signal(self, envelope: Envelope) -> None:
        """Put an envelope in whatever the depth, and wake the actor."""
        queue = self._queue
        queue.append(envelope)
        if len(queue) > self.high_water:
            self.high_water = len(queue)
        if self._reader is not None:
            trio.lowlevel.reschedule(self._reader)
            self._reader = None

    async def wait(self) -> None:
        """Sleep until an envelope is there."""
        self._reader = trio.lowlevel.current_task()
        await trio.lowlevel.wait_task_rescheduled(self._stop_waiting)

    def _stop_waiting(self, _: object) -> trio.lowlevel.Abort:
        self._reader = None
        return trio.lowlevel.Abort.SUCCEEDED

    def take(self) -> Envelope | None:
        """Take the oldest envelope, or None; let the next waiting sender in."""
        if not self._queue:
            return None
        envelope = self._queue.popleft()
        while self._waiting and len(self._queue) < self.capacity:
            waiting, task = self._waiting.popleft()
            if isinstance(waiting, Request) and waiting.settled:
                continue
            self._queue.append(waiting)
            if task is not None:
                trio.lowlevel.reschedule(task)
        return envelope

    def close(self) -> list[Envelope]:
        """Take all envelopes, waiting ones included, and free their senders."""
        left = [*self._queue, *(envelope for envelope, _ in self._waiting)]
        for _, task in self._waiting:
            if task is not None:
                trio.lowlevel.reschedule(task)
        self._queue.clear()
        self._waiting.clear()
        return left
