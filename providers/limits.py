"""How much of a provider may be used, decided without I/O.

`LimitBook` takes events (somebody asks, a call ends, the provider says to slow down)
and tells who may go and when the next one may. `limiter.py` is its shell.
"""

import math
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass

_BURST_SECONDS = 1.0
_LEAST_FACTOR = 0.05
_SLOWED_AT_MOST_EVERY = 1.0
_RECOVERY = 0.02  # of the full rate, for each call that succeeds


@dataclass(frozen=True, slots=True)
class Limits:
    """What one API key may use; None: as much as it likes.

    `max_waiting` bounds the callers that wait; one more is refused.
    """

    requests_per_minute: float | None = None
    tokens_per_minute: float | None = None
    concurrency: int | None = None
    max_waiting: int = 10_000


@dataclass(frozen=True, slots=True)
class LimiterStatistics:
    """What a limiter is doing; `factor` is the part of its rate now in use (0 to 1)."""

    running: int
    waiting: int
    factor: float
    paused_until: float


@dataclass(slots=True)
class _Ask:
    number: int
    caller: str
    tokens: float


class _Bucket:
    """Fills at so much a minute, up to a second's worth; may be overdrawn."""

    def __init__(self, per_minute: float, now: float) -> None:
        self._rate = per_minute / 60
        self.capacity = max(1.0, self._rate * _BURST_SECONDS)
        self._level = self.capacity
        self._at = now

    def fill(self, now: float, factor: float) -> None:
        more = (now - self._at) * self._rate * factor
        self._level = min(self.capacity, self._level + max(more, 0.0))
        self._at = now

    def seconds_until(self, amount: float, factor: float) -> float:
        missing = min(amount, self.capacity) - self._level
        # A hair less than what is missing is rounding, not a reason to wait.
        return 0.0 if missing <= 1e-9 else missing / (self._rate * factor)

    def take(self, amount: float) -> None:
        self._level -= amount


class LimitBook:
    """Grants in turn among callers, each caller's own asks in order.

    Times are seconds on any one clock. An ask for more tokens than a second's worth
    is granted when the bucket is full, and paid off by those after it.
    """

    def __init__(self, limits: Limits, now: float) -> None:
        self.limits = limits
        self._requests = _bucket(limits.requests_per_minute, now)
        self._tokens = _bucket(limits.tokens_per_minute, now)
        self._callers: OrderedDict[str, deque[_Ask]] = OrderedDict()
        self._running: dict[int, _Ask] = {}
        self._waiting = 0
        self._factor = 1.0
        self._slowed_at = -math.inf
        self._paused_until = -math.inf

    @property
    def is_full(self) -> bool:
        """Whether one more caller would be too many."""
        return self._waiting >= self.limits.max_waiting

    def statistics(self) -> LimiterStatistics:
        """Tell what is going on."""
        return LimiterStatistics(
            len(self._running), self._waiting, self._factor, self._paused_until
        )

    def ask(self, number: int, caller: str, tokens: float) -> None:
        """Put somebody in the queue, under a number of its own."""
        queue = self._callers.setdefault(caller, deque())
        queue.append(_Ask(number, caller, tokens))
        self._waiting += 1

    def keep(self, is_wanted: Callable[[int], bool]) -> None:
        """Forget those in the queue who no longer wait."""
        for caller, queue in list(self._callers.items()):
            kept = deque(ask for ask in queue if is_wanted(ask.number))
            self._waiting -= len(queue) - len(kept)
            if kept:
                self._callers[caller] = kept
            else:
                del self._callers[caller]

    def wait(self, now: float) -> float:
        """Tell in how many seconds the next may go; infinity: when a call ends."""
        if not self._waiting:
            return math.inf
        concurrency = self.limits.concurrency
        if concurrency is not None and len(self._running) >= max(
            1, int(concurrency * self._factor)
        ):
            return math.inf
        ask = next(iter(self._callers.values()))[0]
        seconds = max(self._paused_until - now, 0.0)
        for bucket, amount in ((self._requests, 1.0), (self._tokens, ask.tokens)):
            if bucket is not None:
                bucket.fill(now, self._factor)
                seconds = max(seconds, bucket.seconds_until(amount, self._factor))
        return seconds

    def grant(self, now: float) -> int | None:
        """Let the next one go, and give its number; None when nobody may."""
        if self.wait(now) > 0:
            return None
        caller, queue = next(iter(self._callers.items()))
        ask = queue.popleft()
        self._waiting -= 1
        if queue:
            self._callers.move_to_end(caller)
        else:
            del self._callers[caller]
        if self._requests is not None:
            self._requests.take(1.0)
        if self._tokens is not None:
            self._tokens.take(ask.tokens)
        self._running[ask.number] = ask
        return ask.number

    def settle(self, number: int, tokens: float | None) -> None:
        """Take note that a call ended; `tokens` is what it really took, if known."""
        ask = self._running.pop(number, None)
        if ask is None or tokens is None:
            return
        if self._tokens is not None:
            self._tokens.take(tokens - ask.tokens)
        self._factor = min(1.0, self._factor + _RECOVERY)

    def refund(self, number: int) -> None:
        """Take a grant back that nobody came for."""
        ask = self._running.pop(number, None)
        if ask is not None:
            if self._requests is not None:
                self._requests.take(-1.0)
            if self._tokens is not None:
                self._tokens.take(-ask.tokens)

    def pause(self, until: float) -> None:
        """Let nobody go before this time."""
        self._paused_until = max(self._paused_until, until)

    def slow_down(self, now: float) -> None:
        """Halve the rate, at most once a second; calls that succeed bring it back."""
        if now - self._slowed_at >= _SLOWED_AT_MOST_EVERY:
            self._slowed_at = now
            self._factor = max(_LEAST_FACTOR, self._factor / 2)


def _bucket(per_minute: float | None, now: float) -> _Bucket | None:
    return None if per_minute is None else _Bucket(per_minute, now)
