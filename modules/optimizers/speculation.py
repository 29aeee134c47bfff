"""Running ahead: results taken in order, as if each had waited for the one before."""

from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

import trio

T = TypeVar("T")


class Speculation(Generic[T]):
    """Runs work on 0, 1, 2, ... side by side and takes the results in that order.

    `take` gets each result in order and says whether to go on. `is_hit` tells which
    results count towards the `needed` ones: when enough of them are there, nothing
    more is started and what comes after them is cancelled.

    At most `concurrency` run at a time. Work asks for `leave` before each call that
    costs: what is not known to be needed gets it for `max_extra` calls, and then waits
    until it is. So no more than `max_extra` calls are ever made that would not have
    been, had each waited for the one before; where `take` says stop before enough hits
    are there, those of up to `needed` - 1 works more.
    """

    def __init__(
        self,
        count: int,
        work: Callable[[int], Awaitable[T]],
        *,
        take: Callable[[int, T], bool],
        is_hit: Callable[[T], bool],
        needed: int,
        concurrency: int,
        max_extra: int,
    ) -> None:
        self._count = count
        self._work = work
        self._take = take
        self._is_hit = is_hit
        self._missing = needed
        self._untaken = needed
        self._calls: Counter[int] = Counter()
        self._moved = trio.Event()
        self._concurrency = concurrency
        self._max_extra = max_extra
        self._scopes: dict[int, trio.CancelScope] = {}
        self._results: dict[int, T] = {}
        self.started = 0
        self.taken = 0

    @property
    def extra_calls(self) -> int:
        """How many calls were made by work whose results were not taken."""
        return self._calls_from(self.taken)

    async def leave(self, index: int) -> None:
        """Wait until the work on this index may make a call."""
        # As many as there are hits to take will be taken, whatever comes of them.
        while (sure := self.taken + self._untaken) <= index:
            if self._calls_from(sure) < self._max_extra:
                break
            await self._moved.wait()
        self._calls[index] += 1

    async def run(self) -> None:
        """Run until `take` says stop or everything is taken.

        Raises:
            Exception: whatever `take` raises; what still runs is cancelled before.
        """
        failure: Exception | None = None
        sender, receiver = trio.open_memory_channel[tuple[int, T]](self._concurrency)
        async with trio.open_nursery() as nursery:
            try:
                await self._loop(nursery, sender, receiver)
            # Raised again below: a nursery would wrap it in a group.
            except Exception as error:  # noqa: BLE001
                failure = error
            nursery.cancel_scope.cancel()
        if failure is not None:
            raise failure

    async def _loop(
        self,
        nursery: trio.Nursery,
        sender: trio.MemorySendChannel[tuple[int, T]],
        receiver: trio.MemoryReceiveChannel[tuple[int, T]],
    ) -> None:
        while self.taken < self._count:
            while self._may_start():
                scope = self._scopes[self.started] = trio.CancelScope()
                nursery.start_soon(self._run_one, self.started, scope, sender)
                self.started += 1
            index, result = await receiver.receive()
            del self._scopes[index]
            self._results[index] = result
            if self._is_hit(result):
                self._missing -= 1
            self._cancel_surplus()
            while self.taken in self._results:
                result = self._results.pop(self.taken)
                self.taken += 1
                self._untaken -= self._is_hit(result)
                self._moved.set()
                self._moved = trio.Event()
                if not self._take(self.taken - 1, result):
                    return

    async def _run_one(
        self,
        index: int,
        scope: trio.CancelScope,
        sender: trio.MemorySendChannel[tuple[int, T]],
    ) -> None:
        with scope:
            result = await self._work(index)
            await sender.send((index, result))

    def _calls_from(self, index: int) -> int:
        return sum(calls for i, calls in self._calls.items() if i >= index)

    def _may_start(self) -> bool:
        ahead = self.started - self.taken
        return (
            self.started < self._count
            and self._missing > 0
            and len(self._scopes) < self._concurrency
            and ahead < self._missing + self._max_extra
        )

    def _cancel_surplus(self) -> None:
        """Cancel what comes after the last result that can be needed."""
        if self._missing > 0:
            return
        hits = sorted(i for i, result in self._results.items() if self._is_hit(result))
        # -missing hits are more than needed.
        last = hits[len(hits) - 1 + self._missing]
        for index, scope in self._scopes.items():
            if index > last:
                scope.cancel()
