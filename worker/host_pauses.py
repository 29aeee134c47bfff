"""HostPauses: a busy asyncio loop makes way for the runtime's thread.

Why a loop that never waits must sleep for a moment is said in `runtime.threads`.
asyncio has no place where it tells that it is about to wait, so a timer looks at how
much of the last moments the thread has computed; seldom, where the loop has time.
"""

import asyncio
import time
from typing import Final

from dspex.runtime.threads import PAUSE_SECONDS

_PATIENCE_SECONDS: Final = 0.005
_BUSY_SECONDS: Final = 0.001
_LEISURE_SECONDS: Final = 0.05
_BUSY_SHARE: Final = 0.5


class HostPauses:
    """Pauses of one event loop, as long as calls are in the runtime."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._calls = 0
        self._timer: asyncio.TimerHandle | None = None
        self._interval = _PATIENCE_SECONDS
        self._looked_at = 0.0
        self._computed = 0.0

    def begin(self) -> None:
        """Take note of a call."""
        self._calls += 1
        if self._timer is None:
            self._interval = _PATIENCE_SECONDS
            self._wait()

    def end(self) -> None:
        """Take note of a call's end."""
        self._calls -= 1

    def _wait(self) -> None:
        self._looked_at = time.perf_counter()
        self._computed = time.thread_time()
        self._timer = self._loop.call_later(self._interval, self._look)

    def _look(self) -> None:
        self._timer = None
        if not self._calls:
            return
        seconds = time.perf_counter() - self._looked_at
        if time.thread_time() - self._computed > _BUSY_SHARE * seconds:
            self._interval = _BUSY_SECONDS
            time.sleep(PAUSE_SECONDS)
        else:
            self._interval = min(2 * self._interval, _LEISURE_SECONDS)
        self._wait()
