"""The child's end of the channel: whoever waits, reads.

One thread at a time reads, and none is kept for it alone: a thread that is free for
the next run reads it itself, and one that waits for an answer reads until it is there.
So a message wakes the thread it is for and no other, which is most of the time that
two processes need to talk. What is read for somebody else is handed over.
"""

import contextlib
import os
import queue
import socket
import sys
import threading
import time
import traceback
from collections import deque

from dspex.runtime.bridge.frames import FrameReader
from dspex.runtime.bridge.protocol import ToChild, ToParent, decode_in_child, encode

_READ_BYTES = 1 << 16
_WATCH_SECONDS = 0.005


class Channel:
    """The socket to the parent; its end is the end of this process."""

    def __init__(self, channel: socket.socket) -> None:
        self._socket = channel
        self._write = threading.Lock()
        self._reading = threading.Lock()
        self._turns = 0
        self._frames = FrameReader()
        self._buffer = memoryview(bytearray(_READ_BYTES))
        self._bodies: deque[bytes] = deque()
        self._parked: deque[queue.SimpleQueue[None]] = deque()

    def send(self, message: ToParent, *, what: str) -> None:
        """Send a message; any thread may.

        Raises:
            FrameTooLargeError: it is over the limit; nothing was sent.
        """
        data = encode(message, what=what)
        with self._write:
            self._socket.sendall(data)

    @property
    def is_read(self) -> bool:
        """Whether some thread reads."""
        return self._reading.locked()

    def try_reading(self) -> bool:
        """Become the thread that reads, if none is; `leave` ends it."""
        if not self._reading.acquire(blocking=False):
            return False
        self._turns += 1
        return True

    def read(self) -> ToChild:
        """Give the next message; only for the thread that reads.

        The process ends when the parent closes the channel or breaks the protocol.
        """
        try:
            while not self._bodies:
                count = self._socket.recv_into(self._buffer)
                if not count:
                    os._exit(0)
                self._bodies.extend(self._frames.feed(self._buffer[:count]))
            return decode_in_child(self._bodies.popleft())
        except ConnectionError:
            os._exit(0)
        except BaseException:  # noqa: BLE001 - whichever thread it is, it is the end
            traceback.print_exc()
            sys.stderr.flush()
            os._exit(1)

    def leave(self) -> None:
        """Read no more; `stand_by` takes over if nobody else does."""
        self._reading.release()
        while self._parked:
            with contextlib.suppress(IndexError):  # another thread was faster
                self._parked.popleft().put(None)

    def stand_by(self) -> None:
        """Return as the thread that reads, once nobody has read for a moment.

        A run that computes reads nothing, and what comes meanwhile (pings, an order to
        cancel, other runs) must not wait for its end.
        """
        woken: queue.SimpleQueue[None] = queue.SimpleQueue()
        while True:
            turn = self._turns
            time.sleep(_WATCH_SECONDS)
            if turn != self._turns:
                continue
            if self.try_reading():
                return
            # Somebody has been waiting in a read: no need to look until it is left.
            self._parked.append(woken)
            if self.is_read:
                woken.get()
