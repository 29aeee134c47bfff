"""Effects: what a run has paid for, so that it is never paid for twice.

Every model call of a step passes through the run's effects. A call belongs to the
run, not to the actor or process that asked for it: when that one dies, the call
goes on, and the next dispatch of the step gets its answer, finished or under way.

A run with a journal keeps each finished effect on disk before anybody gets its
answer, and starts with those that an earlier process has kept. Their keys are place,
request and occurrence, so they do not depend on the order of concurrent branches.
"""

import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Generic, Protocol, TypeAlias, TypeVar, cast

import outcome
import trio

from dspex.runtime.context import before_send
from dspex.runtime.engine.errors import (
    EffectAbandonedError,
    EffectDecodeError,
    NotJsonError,
)
from dspex.runtime.engine.step_text import StepText

T = TypeVar("T")

Json: TypeAlias = Any  # JSON of any shape; the effect's codec knows which

EffectKey: TypeAlias = tuple[str, str, int]
"""The n-th request with this fingerprint at this place of the run."""


def _same(value: Any) -> Any:  # Any: JSON
    return value


def _none(_: object) -> Mapping[str, int]:
    return {}


def _free(_: object) -> float:
    return 0.0


@dataclass(frozen=True, slots=True)
class Codec(Generic[T]):
    """How the results of one kind of effect are written down and read again."""

    kind: str
    encode: Callable[[T], Json]
    decode: Callable[[Json], T]
    usage: Callable[[T], Mapping[str, int]] = _none
    cost: Callable[[T], float | None] = _free
    """US dollars; None where the price is not known."""
    is_whole: bool = False
    """Its cost is that of effects made within: it counts when they are not."""


PLAIN: Final[Codec[Any]] = Codec("value", _same, _same)
"""For results that are JSON already."""


@dataclass(frozen=True, slots=True)
class FinishedEffect:
    """An effect to be kept: JSON, and what it took."""

    key: EffectKey
    kind: str
    request: Json
    response: Json
    usage: Mapping[str, float]
    seconds: float
    finished_at: float


class RunJournal(Protocol):
    """Where the effects of one run are kept."""

    @property
    def run(self) -> str:
        """The run's id."""
        ...

    @property
    def stored(self) -> Mapping[EffectKey, Json]:
        """The responses that an earlier attempt has kept."""
        ...

    async def hold(self) -> None:
        """Return while the run is this worker's; else wait until it is known."""
        ...

    async def record(self, effect: FinishedEffect) -> None:
        """Keep an effect; returns when it is on disk."""
        ...

    def note(self, kind: str, body: Mapping[str, Json]) -> None:
        """Keep that something happened; does not wait for the disk."""
        ...


def step_of(path: str) -> str:
    """Give the step of a path: `answer[3]~1` is the second attempt of an item."""
    return path.partition("[")[0].partition("~")[0]


@dataclass(slots=True)
class EffectCounts:
    """How many effects of a step were made, how many the journal had, their cost."""

    live: int = 0
    journaled: int = 0
    cost_usd: float | None = 0.0
    """What they cost, in this process or an earlier one; None: not known."""

    def pay(self, cost: float | None) -> None:
        """Add a cost; one that is not known leaves the sum unknown."""
        known = self.cost_usd
        self.cost_usd = None if known is None or cost is None else known + cost


class EffectLog:
    """The finished and running effects of one run.

    When an effect cannot be kept or begun, `fault` says why, `unsaved` has what was
    made, and `scope` is cancelled: what goes on without a journal could be paid twice.
    """

    def __init__(
        self,
        nursery: trio.Nursery,
        journal: RunJournal | None = None,
        *,
        scope: trio.CancelScope | None = None,
    ) -> None:
        self._nursery = nursery
        self._journal = journal
        self._scope = scope
        self._finished: dict[EffectKey, object] = {}
        self._running: dict[EffectKey, _Running] = {}
        self._left: Counter[str] = Counter()
        if journal is not None:
            self._left.update(step_of(key[0]) for key in journal.stored)
        self.counts: dict[str, EffectCounts] = {}
        self.fault: Exception | None = None
        self.unsaved: list[FinishedEffect] = []

    @property
    def is_busy(self) -> bool:
        """Whether a call is under way."""
        return bool(self._running)

    def unused(self, step: str) -> int:
        """Give how many effects the journal has of a step that it did not ask for."""
        return self._left[step]

    def scope(self, path: str) -> "Effects":
        """Give the effects of one dispatch of one step; `path` names the step."""
        return Effects(self, path)

    def find(self, key: EffectKey, codec: Codec[T]) -> "_Found[T] | None":
        """Give a finished effect, of this attempt or of the journal."""
        if key in self._finished:
            return _Found(cast("T", self._finished[key]))
        if self._journal is None or key not in self._journal.stored:
            return None
        try:
            value = codec.decode(self._journal.stored[key])
        except Exception as error:
            raise EffectDecodeError(key[0], codec.kind, error) from error
        self._finished[key] = value
        counts = self._count(key)
        counts.journaled += 1
        counts.pay(codec.cost(value))
        self._left[step_of(key[0])] -= 1
        return _Found(value)

    async def share(
        self, key: EffectKey, call: Callable[[], Awaitable[T]], pending: "_Pending[T]"
    ) -> T:
        """Give the effect's result: from the log, from the running call, or anew."""
        found = self.find(key, pending.codec)
        if found is not None:
            await trio.lowlevel.checkpoint()
            return found.value
        running = self._running.get(key)
        if running is None:
            running = _Running()
            try:
                self._nursery.start_soon(self._run, key, running, call, pending)
            except RuntimeError:  # trio's: it is closed, for the run has ended
                raise EffectAbandonedError(key[0]) from None
            self._running[key] = running
        return cast("T", await running.wait())

    async def keep(self, key: EffectKey, value: T, pending: "_Pending[T]") -> None:
        """Take note of a finished effect; returns when it is on disk."""
        counts = self._count(key)
        counts.live += 1
        if not pending.codec.is_whole:
            counts.pay(pending.codec.cost(value))
        if self._journal is not None:
            effect = pending.finish(key, value)
            try:
                await self._journal.record(effect)
            except NotJsonError:
                # The step's fault, not the journal's.
                raise
            except Exception as error:
                self.unsaved.append(effect)
                self._interrupt(error)
                raise
        self._finished[key] = value

    async def hold(self) -> None:
        """Return while the run is this worker's: before all that is to be paid.

        Raises:
            StoreError: it is not known whose it is; the run is interrupted.
        """
        if self._journal is None:
            return
        try:
            await self._journal.hold()
        except Exception as error:
            self._interrupt(error)
            raise

    def _interrupt(self, error: Exception) -> None:
        if self.fault is None:
            self.fault = error
        if self._scope is not None:
            self._scope.cancel()

    async def _run(
        self,
        key: EffectKey,
        running: "_Running",
        call: Callable[[], Awaitable[T]],
        pending: "_Pending[T]",
    ) -> None:
        async def make() -> T:
            await self.hold()
            value = await call()
            await self.keep(key, value, pending)
            return value

        # A call waits for a place, a connection, another try: then it looks again.
        before_send.set(self.hold)
        running.result = await outcome.acapture(make)
        if isinstance(running.result, outcome.Error):
            error = running.result.error
            if not isinstance(error, Exception):
                # Who waits may be an actor that outlives the run.
                running.result = outcome.Error(EffectAbandonedError(key[0]))
                running.done.set()
                raise error
        # A failed effect is not kept: the next dispatch may try it again.
        del self._running[key]
        running.done.set()

    def _count(self, key: EffectKey) -> EffectCounts:
        return self.counts.setdefault(step_of(key[0]), EffectCounts())


@dataclass(frozen=True, slots=True)
class _Found(Generic[T]):
    value: T


@dataclass(frozen=True, slots=True)
class _Pending(Generic[T]):
    """An effect that is about to be made."""

    codec: Codec[T]
    request: Callable[[], Json] | None
    started: float = field(default_factory=trio.current_time)

    def finish(self, key: EffectKey, value: T) -> FinishedEffect:
        usage: dict[str, float] = dict(self.codec.usage(value))
        cost = self.codec.cost(value)
        if usage and cost is not None:
            usage["cost_usd"] = cost
        return FinishedEffect(
            key,
            self.codec.kind,
            None if self.request is None else self.request(),
            self.codec.encode(value),
            usage,
            trio.current_time() - self.started,
            time.time(),
        )


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

    texts: StepText | None = None
    """Who hears the text of the step while it is written; None: nobody."""

    def __init__(self, log: EffectLog, path: str) -> None:
        self._log = log
        self._path = path
        self._seen: Counter[str] = Counter()

    @property
    def path(self) -> str:
        """The place in the run: the name of the step."""
        return self._path

    async def perform(
        self,
        fingerprint: str,
        call: Callable[[], Awaitable[T]],
        *,
        codec: Codec[T] = PLAIN,
        request: Callable[[], Json] | None = None,
    ) -> T:
        """Make the call, unless this run has made it already; give its result.

        `fingerprint` tells requests apart; equal ones count up, so a step that asks
        the same thing twice gets two answers, each of them once. `codec` writes the
        result down and reads it again; `request` gives what is kept of the question.

        Raises:
            StoreError: the result could not be kept; the run is interrupted.
            Exception: whatever the call raises; it is made anew when asked again.
        """
        key = self._key(fingerprint)
        return await self._log.share(key, call, _Pending(codec, request))

    async def perform_here(
        self,
        fingerprint: str,
        call: Callable[[], Awaitable[T]],
        *,
        codec: Codec[T] = PLAIN,
        request: Callable[[], Json] | None = None,
    ) -> T:
        """As `perform`, but the call is the caller's own and ends with it."""
        key = self._key(fingerprint)
        found = self._log.find(key, codec)
        if found is not None:
            await trio.lowlevel.checkpoint()
            return found.value
        pending = _Pending(codec, request)
        await self._log.hold()
        value = await call()
        await self._log.keep(key, value, pending)
        return value

    def _key(self, fingerprint: str) -> EffectKey:
        occurrence = self._seen[fingerprint]
        self._seen[fingerprint] += 1
        return (self._path, fingerprint, occurrence)
