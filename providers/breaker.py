"""A circuit breaker: a model that keeps failing is left alone for a while."""

from collections.abc import AsyncGenerator, Generator, Sequence
from contextlib import asynccontextmanager, contextmanager
from enum import Enum

import trio

from dspex.providers.errors import BreakerOpenError, ProviderError, RateLimitError
from dspex.providers.lm import Capabilities
from dspex.providers.messages import Message, Request, Response
from dspex.providers.streams import ResponseStream, StreamingLM
from dspex.runtime.log import get_logger

_log = get_logger()


class BreakerState(Enum):
    """Closed: calls pass. Open: they fail at once. Half-open: one of them tries."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


class Circuit:
    """The breaker's decisions, without I/O; times are seconds on any one clock."""

    def __init__(self, *, failures: int, open_seconds: float) -> None:
        self._failures_allowed = failures
        self._open_seconds = open_seconds
        self._failures = 0
        self._opened_at = 0.0
        self.state = BreakerState.CLOSED

    def admit(self, now: float) -> float | None:
        """Let a call pass (None), or tell in how many seconds one may."""
        if self.state is BreakerState.CLOSED:
            return None
        left = self._opened_at + self._open_seconds - now
        if self.state is BreakerState.OPEN and left <= 0:
            self.state = BreakerState.HALF_OPEN
            return None
        return max(left, 0.0)

    def succeeded(self) -> None:
        """Close: the model answers."""
        self._failures = 0
        self.state = BreakerState.CLOSED

    def failed(self, now: float) -> None:
        """Count a failure; open at too many in a row, or when the probe failed."""
        self._failures += 1
        is_probe = self.state is BreakerState.HALF_OPEN
        if is_probe or self._failures >= self._failures_allowed:
            self.state = BreakerState.OPEN
            self._opened_at = now

    def gave_up(self) -> None:
        """Take note of a call that ended without telling anything about the model."""
        if self.state is BreakerState.HALF_OPEN:
            self.state = BreakerState.OPEN  # the next one is the probe


class Breaker:
    """Puts a breaker before a model: after `failures` in a row it opens.

    For `open_seconds` every call fails at once with BreakerOpenError; then a single
    call is let through, and its end closes the breaker or opens it again. Only what
    a later call may not suffer counts: timeouts, broken connections, errors of the
    server; not a 429, nor a request that is wrong. Clients that share the model
    share the breaker by sharing this object.
    """

    def __init__(
        self, lm: StreamingLM, *, failures: int = 5, open_seconds: float = 30.0
    ) -> None:
        self._lm = lm
        self._circuit = Circuit(failures=failures, open_seconds=open_seconds)

    @property
    def name(self) -> str:
        """The model's name."""
        return self._lm.name

    @property
    def inner(self) -> tuple[StreamingLM, ...]:
        """The model that it stands before."""
        return (self._lm,)

    @property
    def capabilities(self) -> Capabilities:
        """What the model can do."""
        return self._lm.capabilities

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
        self._admit()
        with self._watched():
            response = await self._lm.complete(request, timeout=timeout)
        self._circuit.succeeded()
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
        self._admit()
        with self._watched():
            async with self._lm.stream(request, timeout=timeout) as stream:
                self._circuit.succeeded()
                yield stream

    def _admit(self) -> None:
        seconds = self._circuit.admit(trio.current_time())
        if seconds is not None:
            provider, _, model = self.name.partition(":")
            raise BreakerOpenError(
                f"it failed too often lately; next try in {seconds:.1f} s",
                provider=provider,
                model=model,
                retry_after=seconds,
            )

    @contextmanager
    def _watched(self) -> Generator[None]:
        try:
            yield
        except ProviderError as error:
            if error.retryable and not isinstance(error, RateLimitError):
                before = self._circuit.state
                self._circuit.failed(trio.current_time())
                if self._circuit.state is not before:
                    _log.warning("breaker_opened", model=self.name, reason=str(error))
            else:
                self._circuit.gave_up()
            raise
        except BaseException:
            self._circuit.gave_up()
            raise
