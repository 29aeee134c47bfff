"""Mailboxes: bounded queues with back-pressure, FIFO for each sender."""

from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from functools import partial
from typing import TypeAlias

import trio
from trio.lowlevel import reschedule

from dspex.runtime.envelope import (
    DEFAULT_CAPACITY,
    Envelope,
    Request,
    SystemEnvelope,
)
from dspex.runtime.wake import WOKEN

# By the task that waits, or by the call whose task waits for its answer anyway: a
# hundred thousand may be cancelled at once, each of which must be found.
_Senders: TypeAlias = OrderedDict[object, tuple[Envelope, trio.lowlevel.Task | None]]


def _forget(senders: _Senders, key: object) -> None:
    senders.pop(key, None)


class Mailbox:
    """The envelopes that wait for one actor.

    `capacity` bounds what lies inside. Senders beyond it wait in arrival order;
    each of them is a task that is blocked, so nothing grows without bound. Signals
    of the kernel (exits, stops) always find room.
    """

    # An actor that waits gets its next envelope handed over; the queues exist only
    # once there was more than one at a time, for most actors never.
    __slots__ = (
        "_is_in_callback",
        "_senders",
        "_system_reader",
        "capacity",
        "handed",
        "high_water",
        "queue",
        "reader",
    )

    def __init__(self, capacity: int = DEFAULT_CAPACITY) -> None:
        if capacity < 1:
            raise ValueError(f"mailbox capacity must be at least 1, not {capacity}")
        self.capacity = capacity
        self.high_water = 0
        self.queue: deque[Envelope] | None = None
        self._senders: _Senders | None = None
        self.handed: Envelope | None = None
        self._is_in_callback = False
        self.reader: trio.lowlevel.Task | None = None
        self._system_reader: trio.lowlevel.Task | None = None

    @property
    def depth(self) -> int:
        """How many envelopes lie inside."""
        return len(self.queue or ()) + (self.handed is not None)

    @property
    def waiting_senders(self) -> int:
        """How many senders wait for room."""
        return len(self._senders or ())

    @property
    def is_idle(self) -> bool:
        """Whether the actor waits for a message and none lies here."""
        return self.reader is not None or (
            self._system_reader is not None and self.handed is None
        )

    # The senders' side.

    def put_call(self, request: Request) -> None:
        """Put a call in, or let it wait its turn: its caller is blocked anyway."""
        queue = self.queue
        if queue is not None and len(queue) >= self.capacity and self.reader is None:
            senders = self._senders
            if senders is None:
                senders = self._senders = OrderedDict()
            senders[request] = (request, None)
            # One that is given up is not kept until there is room.
            request.on_settled = partial(_forget, senders, request)
        else:
            self.put_signal(request)

    def put_nowait(self, envelope: Envelope) -> bool:
        """Put an envelope in; False if there is no room."""
        queue = self.queue
        if queue is not None and len(queue) >= self.capacity and self.reader is None:
            return False
        self.put_signal(envelope)
        return True

    async def put(self, envelope: Envelope) -> None:
        """Put an envelope in; wait for room. If cancelled, it was not put."""
        if self.put_nowait(envelope):
            return
        senders = self._senders
        if senders is None:
            senders = self._senders = OrderedDict()
        task = trio.lowlevel.current_task()
        senders[task] = (envelope, task)

        def abort(_: object) -> trio.lowlevel.Abort:
            _forget(senders, task)
            return trio.lowlevel.Abort.SUCCEEDED

        await trio.lowlevel.wait_task_rescheduled(abort)

    def put_signal(self, envelope: Envelope) -> None:
        """Put an envelope in whatever the depth, and wake the actor."""
        reader = self.reader
        if reader is not None:
            self.reader = None
            self.handed = envelope
            reschedule(reader, WOKEN)
            return
        queue = self.queue
        if queue is None:
            queue = self.queue = deque()
        queue.append(envelope)
        if len(queue) > self.high_water:
            self.high_water = len(queue)

    def put_system(self, envelope: SystemEnvelope) -> None:
        """Put an envelope in that a suspended actor handles too."""
        reader = self._system_reader
        if reader is None:
            self.put_signal(envelope)
        else:
            self._system_reader = None
            self.handed = envelope
            reschedule(reader, WOKEN)

    # The actor's side.

    def take(self) -> Envelope | None:
        """Take the oldest envelope, or None; let the next waiting sender in."""
        queue = self.queue
        if not queue:
            return None
        envelope = queue.popleft()
        if self._senders:
            self._let_in(queue, self._senders)
        return envelope

    async def wait(self) -> Envelope:
        """Sleep until an envelope comes, inside a callback of the actor."""
        self.reader = trio.lowlevel.current_task()
        self._is_in_callback = True
        try:
            await trio.lowlevel.wait_task_rescheduled(self.stop_waiting)
        finally:
            self._is_in_callback = False
        return self.take_handed()

    def wake_idle(self) -> bool:
        """Wake the actor with nothing if it waits between two messages, to die."""
        reader = self.reader
        if reader is None or self._is_in_callback:
            return False
        self.reader = None
        reschedule(reader, WOKEN)
        return True

    def take_handed(self) -> Envelope:
        """Take what was handed over to the actor that waited."""
        envelope, self.handed = self.handed, None
        assert envelope is not None
        return envelope

    async def wait_system(self) -> SystemEnvelope:
        """Take the oldest system envelope, or sleep until one comes."""
        found = self.take_first(lambda it: isinstance(it, SystemEnvelope))
        if found is None:
            self._system_reader = trio.lowlevel.current_task()
            await trio.lowlevel.wait_task_rescheduled(self.stop_waiting)
            found = self.take_handed()
        assert isinstance(found, SystemEnvelope)
        return found

    def take_first(self, wanted: Callable[[Envelope], bool]) -> Envelope | None:
        """Take the oldest envelope that is wanted, or None."""
        queue = self.queue
        if queue is not None:
            for index, envelope in enumerate(queue):
                if wanted(envelope):
                    del queue[index]
                    if self._senders:
                        self._let_in(queue, self._senders)
                    return envelope
        return None

    def stop_waiting(self, _: object) -> trio.lowlevel.Abort:
        """Take note that the task that waited was cancelled."""
        self.reader = self._system_reader = None
        return trio.lowlevel.Abort.SUCCEEDED

    def _let_in(self, queue: deque[Envelope], senders: _Senders) -> None:
        while senders and len(queue) < self.capacity:
            _, (envelope, task) = senders.popitem(last=False)
            if task is not None:
                reschedule(task, WOKEN)
            elif isinstance(envelope, Request):
                envelope.on_settled = None
            queue.append(envelope)

    def close(self) -> Iterator[Envelope]:
        """Take all envelopes, waiting ones included, and free their senders."""
        if self.handed is not None:
            yield self.take_handed()
        if self.queue is not None:
            yield from self.queue
            self.queue = None
        if self._senders is not None:
            for envelope, task in self._senders.values():
                if task is not None:
                    reschedule(task, WOKEN)
                yield envelope
            self._senders = None
