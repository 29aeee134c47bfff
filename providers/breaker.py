"""A circuit breaker: a model that keeps failing is left alone for a while."""

from collections.abc import AsyncGenerator, Generator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from enum import Enum

import trio

from dspex.providers.errors import (
    BreakerOpenError,
    ProviderError,
    ProviderTimeoutError,
    RateLimitError,
)
from dspex.providers.lm import Wrapper
from dspex.providers.messages import Message, Request, Response
from dspex.providers.streams import Delta, ResponseStream, StreamingLM
from dspex.runtime.log import get_logger

_log = get_logger()


class BreakerState(Enum):
    """Closed: calls pass. Open: they fail at once. Half-open: one of them tries."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


class Circuit:
    """The breaker's decisions, without I/O; times are seconds on any one clock.

    `era` counts the changes of state. A call tells how it ended with the era it was
    admitted in: what began before the breaker opened says nothing about its probe.
    """

    def __init__(self, *, failures: int, open_seconds: float) -> None:
        self._failures_allowed = failures
        self._open_seconds = open_seconds
        self._failures = 0
        self._opened_at = 0.0
        self.state = BreakerState.CLOSED
        self.era = 0

    def admit(self, now: float) -> float | None:
        """Let a call pass (None), or tell in how many seconds one may."""
        if self.state is BreakerState.CLOSED:
            return None
        left = self._opened_at + self._open_seconds - now
        if self.state is BreakerState.OPEN and left <= 0:
            self._change(BreakerState.HALF_OPEN)
            return None
        return max(left, 0.0)

    def began(self, era: int) -> int:
        """Close if this is the probe: the model answers; give the era for its end."""
        if era == self.era and self.state is BreakerState.HALF_OPEN:
            self._change(BreakerState.CLOSED)
            return self.era
        return era

    def succeeded(self, era: int) -> None:
        """Close, and forget the failures: the model has answered."""
        if self.began(era) == self.era:
            self._failures = 0

    def failed(self, era: int, now: float) -> bool:
        """Count a failure; tell whether it opened the breaker.

        Too many in a row do, or that of the probe.
        """
        if era != self.era:
            return False
        self._failures += 1
        is_probe = self.state is BreakerState.HALF_OPEN
        if not is_probe and self._failures < self._failures_allowed:
            return False
        self._change(BreakerState.OPEN)
        self._opened_at = now
        return True

    def gave_up(self, era: int) -> None:
        """Take note of a call that ended without telling anything about the model."""
        if era == self.era and self.state is BreakerState.HALF_OPEN:
            self._change(BreakerState.OPEN)  # the next one is the probe

    def _change(self, state: BreakerState) -> None:
        self.state = state
        self.era += 1


class Breaker(Wrapper[StreamingLM]):
    """Puts a breaker before a model: after `failures` in a row it opens.

    For `open_seconds` every call fails at once with BreakerOpenError; then a single
    call is let through, and its end closes the breaker or opens it again. Only what
    a later call may not suffer counts: timeouts, broken connections, errors of the
    server, a stream that breaks off; not a 429, a request that is wrong, nor what
    happens to the reader of a stream. A stream closes the breaker when it begins.
    Clients that share the model share the breaker by sharing this object.
    """

    def __init__(
        self, lm: StreamingLM, *, failures: int = 5, open_seconds: float = 30.0
    ) -> None:
        super().__init__(lm)
        self._circuit = Circuit(failures=failures, open_seconds=open_seconds)

    @property
    def state(self) -> BreakerState:
        """Whether calls pass."""
        return self._circuit.state

    async def complete(
        self,
        request: Request | str | Sequence[Message],
        *,
        timeout: float | None = None,
    ) -> Response:
        """Send one request and give the answer; see `LM.complete`.

        Raises:
            BreakerOpenError: the model failed too often lately.
            ProviderError: there is no answer; its subclass and attributes say why.
        """
        era = self._admit()
        with self._watched(era):
            response = await self._lm.complete(request, timeout=timeout)
        self._circuit.succeeded(era)
        return response

    @asynccontextmanager
    async def stream(
        self,
        request: Request | str | Sequence[Message],
        *,
        timeout: float | None = None,
    ) -> AsyncGenerator[ResponseStream]:
        """Send one request and give the stream of its answer; see `StreamingLM`.

        Raises:
            BreakerOpenError: the model failed too often lately.
            ProviderError: there is no answer; its subclass and attributes say why.
        """
        era = self._admit()
        async with AsyncExitStack() as exits:
            with self._watched(era):
                stream = await exits.enter_async_context(
                    self._lm.stream(request, timeout=timeout)
                )
            era = self._circuit.began(era)
            is_broken = False

            async def more() -> Sequence[Delta]:
                nonlocal is_broken
                try:
                    async for delta in stream:
                        return (delta,)
                except ProviderError as error:
                    is_broken = True
                    self._failed(era, error)
                    raise
                seen.complete(stream.response)
                return ()

            seen = ResponseStream((), more)
            try:
                yield seen
            finally:
                # Whatever the reader met, the model did as it was asked.
                if not is_broken:
                    self._circuit.succeeded(era)

    def _admit(self) -> int:
        seconds = self._circuit.admit(trio.current_time())
        if seconds is not None:
            provider, _, model = self.name.partition(":")
            raise BreakerOpenError(
                f"it failed too often lately; next try in {seconds:.1f} s",
                provider=provider,
                model=model,
                retry_after=seconds,
            )
        return self._circuit.era

    @contextmanager
    def _watched(self, era: int) -> Generator[None]:
        try:
            yield
        except ProviderError as error:
            if _is_failure(error):
                self._failed(era, error)
            else:
                self._circuit.gave_up(era)
            raise
        except BaseException:
            self._circuit.gave_up(era)
            raise

    def _failed(self, era: int, error: ProviderError) -> None:
        if self._circuit.failed(era, trio.current_time()):
            _log.warning("breaker_opened", model=self.name, reason=str(error))


def _is_failure(error: ProviderError) -> bool:
    """Whether a later call may not suffer it."""
    if isinstance(error, ProviderTimeoutError) and error.is_limited:
        return False
    return error.retryable and not isinstance(error, RateLimitError)
