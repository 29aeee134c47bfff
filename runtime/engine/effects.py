"""Effects: what a run has paid for, so that it is never paid for twice.

Every model call of a step passes through the run's effects. A call belongs to the
run, not to the actor or process that asked for it: when that one dies, the call
goes on, and the next dispatch of the step gets its answer, finished or under way.
"""

from collections import Counter
from collections.abc import Awaitable, Callable
from typing import TypeVar, cast

import outcome
import trio

T = TypeVar("T")

# The n-th request with this fingerprint at this place of the run.
_Key = tuple[str, str, int]


class EffectLog:
    """The finished and running effects of one run."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self._nursery = nursery
        self._finished: dict[_Key, object] = {}
        self._running: dict[_Key, _Running] = {}

    def scope(self, path: str) -> "Effects":
        """Give the effects of one dispatch of one step; `path` names the step."""
        return Effects(self, path)

    async def perform(self, key: _Key, call: Callable[[], Awaitable[object]]) -> object:
        """Give the effect's result: from the log, from the running call, or anew."""
        if key in self._finished:
            await trio.lowlevel.checkpoint()
            return self._finished[key]
        running = self._running.get(key)
        if running is None:
            running = self._running[key] = _Running()
            self._nursery.start_soon(self._run, key, running, call)
        return await running.wait()

    async def _run(
        self, key: _Key, running: "_Running", call: Callable[[], Awaitable[object]]
    ) -> None:
        running.result = await outcome.acapture(call)
        if isinstance(running.result, outcome.Error):
            error = running.result.error
            if not isinstance(error, Exception):
                raise error
        else:
            self._finished[key] = running.result.value
        # A failed effect is not kept: the next dispatch may try it again.
        del self._running[key]
        running.done.set()


class _Running:
    """A call under way, which any number of dispatches may wait for."""

    def __init__(self) -> None:
        self.done = trio.Event()
        self.result: outcome.Maybe[object] | None = None

    async def wait(self) -> object:
        await self.done.wait()
        if isinstance(self.result, outcome.Error):
            raise self.result.error
        return cast("outcome.Value[object]", self.result).value


class Effects:
    """The effects of one dispatch: the same requests in the same order again."""

    def __init__(self, log: EffectLog, path: str) -> None:
        self._log = log
        self._path = path
        self._seen: Counter[str] = Counter()

    async def perform(self, fingerprint: str, call: Callable[[], Awaitable[T]]) -> T:
        """Make the call, unless this run has made it already; give its result.

        `fingerprint` tells requests apart; equal ones count up, so a step that asks
        the same thing twice gets two answers, each of them once.
        """
        occurrence = self._seen[fingerprint]
        self._seen[fingerprint] += 1
        key = (self._path, fingerprint, occurrence)
        return cast("T", await self._log.perform(key, call))
