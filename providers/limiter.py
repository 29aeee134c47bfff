"""One limiter for each provider key: an actor that all clients of the key ask.

Waiting is the default; the caller's own deadline ends it. A Retry-After that one
caller is told pauses all of them.
"""

import itertools
import math
from collections.abc import AsyncGenerator, Generator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from contextvars import ContextVar
from typing import Protocol

import trio

from dspex.providers.errors import LimitExceededError, RateLimitError
from dspex.providers.limits import LimitBook, LimiterStatistics, Limits
from dspex.providers.replies import exhausted_for
from dspex.runtime import (
    Actor,
    ActorRef,
    CalleeExitedError,
    Deferred,
    NoProcessError,
    Refuse,
    Registry,
)
from dspex.runtime.log import get_logger

_LONGEST_WAIT = 3600.0
_RELEASE_SECONDS = 1.0

_log = get_logger()
_caller: ContextVar[str] = ContextVar("dspex_limiter_caller", default="")


@contextmanager
def as_caller(name: str) -> Generator[None]:
    """Ask limiters under this name in the block; turns are fair among names."""
    token = _caller.set(name)
    try:
        yield
    finally:
        _caller.reset(token)


class Permit(Protocol):
    """Leave to send one request."""

    def settle(self, tokens: int) -> None:
        """Tell how many tokens it really took."""
        ...

    def throttled(self, seconds: float | None) -> None:
        """Tell that the provider refused it, and how long it wants to be left alone."""
        ...

    def pause(self, seconds: float) -> None:
        """Tell that the provider has nothing left to give for so long."""
        ...


class Limiter(Protocol):
    """Whom a client asks before each request it sends."""

    def permit(self, tokens: int) -> AbstractAsyncContextManager[Permit]:
        """Wait for leave to use about so many tokens; hold it for the block.

        Raises:
            LimitExceededError: the limiter refuses instead of waiting.
        """
        ...


class RateLimiter(Actor):
    """Keeps the clients of one API key within its `limits`.

    With `waits` off, a request that would have to wait is refused at once.
    """

    capacity = 20_000

    def __init__(self, limits: Limits, *, waits: bool = True) -> None:
        self._limits = limits
        self._waits = waits
        self._numbers = itertools.count(1)
        self._waiting: dict[int, Deferred[int]] = {}

    async def init(self) -> None:
        """Start with full buckets."""
        self._book = LimitBook(self._limits, trio.current_time())
        self._changed = trio.Event()
        self.spawn(self._keep_time)

    async def acquire(self, caller: str, tokens: int) -> Deferred[int]:
        """Give the number of a permit, once there is one.

        Raises:
            LimitExceededError: too many wait, or this limiter does not let wait.
        """
        if self._book.is_full:
            self._book.keep(self._is_wanted)
        if self._book.is_full:
            raise Refuse(
                LimitExceededError(
                    f"{self._limits.max_waiting} callers wait already",
                    provider=self.name,
                )
            )
        number = next(self._numbers)
        deferred: Deferred[int] = self.deferred()
        self._waiting[number] = deferred
        self._book.ask(number, caller, tokens)
        self._grant()
        if not self._waits and number in self._waiting:
            del self._waiting[number]
            self._book.keep(self._waiting.__contains__)
            raise Refuse(
                LimitExceededError("its limits are used up", provider=self.name)
            )
        return deferred

    async def release(self, number: int, tokens: int | None) -> None:
        """Take a permit back; `tokens` is what was really used, None: unknown."""
        self._book.settle(number, tokens)
        self._grant()

    async def throttled(self, seconds: float | None) -> None:
        """Slow down, and pause if the provider said for how long."""
        self._book.slow_down(trio.current_time())
        if seconds is not None:
            await self.pause(seconds)

    async def pause(self, seconds: float) -> None:
        """Let nobody go for so many seconds."""
        self._book.pause(trio.current_time() + seconds)
        self._changed.set()
        _log.info("provider_paused", limiter=self.name, seconds=round(seconds, 3))

    async def statistics(self) -> LimiterStatistics:
        """Tell what is going on."""
        return self.figures

    @property
    def limits(self) -> Limits:
        """What it lets through."""
        return self._limits

    @property
    def figures(self) -> LimiterStatistics:
        """What is going on, for who looks at the actor itself."""
        return self._book.statistics()

    def _grant(self) -> None:
        while (number := self._book.grant(trio.current_time())) is not None:
            deferred = self._waiting.pop(number)
            if deferred.is_wanted:
                deferred.reply(number)
            else:
                self._book.refund(number)
        self._changed.set()

    def _is_wanted(self, number: int) -> bool:
        if self._waiting[number].is_wanted:
            return True
        del self._waiting[number]
        return False

    async def _keep_time(self) -> None:
        while True:
            self._changed = trio.Event()
            seconds = self._book.wait(trio.current_time())
            with trio.move_on_after(seconds):
                await self._changed.wait()
                continue
            self._grant()


class SharedLimiter:
    """Asks the limiter of this name, also after it was restarted."""

    def __init__(self, registry: Registry, name: str) -> None:
        self._registry = registry
        self._name = name

    @asynccontextmanager
    async def permit(self, tokens: int) -> AsyncGenerator["SharedPermit"]:
        """Wait for leave to use about so many tokens; hold it for the block.

        The wait is as long as the surrounding deadline lets it be.

        Raises:
            LimitExceededError: the limiter refuses instead of waiting.
            NameWaitTimeoutError: there is no limiter of this name.
        """
        permit = await self._acquire(tokens)
        try:
            yield permit
        finally:
            # Bounded: a limiter that is gone or busy has no say over its callers.
            with trio.CancelScope(shield=True) as scope:
                scope.deadline = trio.current_time() + _RELEASE_SECONDS
                await permit.release()

    async def _acquire(self, tokens: int) -> "SharedPermit":
        while True:
            left = trio.current_effective_deadline() - trio.current_time()
            # A second more than there is: the deadline itself shall end the wait, not
            # an error of the call that comes in the same moment.
            left = min(_LONGEST_WAIT, max(left, 0.0)) + 1.0
            ref: ActorRef[RateLimiter] = await self._registry.wait_for(self._name, left)
            try:
                number = await ref.call(
                    RateLimiter.acquire, _caller.get(), tokens, timeout=left
                )
            except (CalleeExitedError, NoProcessError):
                continue  # its supervisor starts it again
            return SharedPermit(ref, number)


class SharedPermit:
    """Leave given by one incarnation of a limiter."""

    def __init__(self, ref: ActorRef[RateLimiter], number: int) -> None:
        self._ref = ref
        self._number = number
        self._tokens: int | None = None
        self._throttled = False
        self._pause: float | None = None

    def settle(self, tokens: int) -> None:
        """Tell how many tokens it really took."""
        self._tokens = tokens

    def throttled(self, seconds: float | None) -> None:
        """Tell that the provider refused it, and how long it wants to be left alone."""
        self._throttled = True
        if seconds is not None:
            self.pause(seconds)

    def pause(self, seconds: float) -> None:
        """Tell that the provider has nothing left to give for so long."""
        self._pause = max(seconds, self._pause or 0.0)

    async def release(self) -> None:
        """Give it back, with what was learned."""
        if self._throttled:
            await self._ref.cast(RateLimiter.throttled, self._pause)
        elif self._pause is not None:
            await self._ref.cast(RateLimiter.pause, self._pause)
        await self._ref.cast(RateLimiter.release, self._number, self._tokens)


@contextmanager
def told(permit: Permit | None, headers: Mapping[str, str]) -> Generator[None]:
    """Tell a limiter what the reply handled in the block says about limits."""
    if permit is not None and (seconds := exhausted_for(headers)) is not None:
        permit.pause(seconds)
    try:
        yield
    except RateLimitError as error:
        if permit is not None:
            permit.throttled(error.retry_after)
        raise


def estimate_tokens(body: bytes, max_tokens: int | None, choices: int) -> int:
    """Guess the tokens of a call from the size of its body and its room to answer."""
    answer = 256 if max_tokens is None else max_tokens
    return math.ceil(len(body) / 4) + answer * choices
