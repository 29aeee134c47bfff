"""Refusals: a provider that takes no more calls for a while is waited for.

A 429 says nothing about the example that met it: were it counted as that one's error,
a minute of refusals would end a compile, or change what it finds.
"""

import itertools
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager
from typing import Final, Protocol, TypeVar

import trio

from dspex.providers.errors import ProviderTimeoutError, RateLimitError
from dspex.providers.retries import RetryPolicy
from dspex.runtime.log import get_logger

T = TypeVar("T")

PATIENCE_SECONDS: Final = 600.0
"""How long one call is refused before that is an error."""

_WAITS: Final = RetryPolicy(first_wait=2.0, longest_wait=20.0)

log = get_logger()


class Stopwatch(Protocol):
    """The time of an example, of which refusals take nothing."""

    def give_back(self, seconds: float) -> None:
        """Have the example end so much later."""
        ...

    def suspended(self) -> AbstractContextManager[None]:
        """Stop the clock for the length of a block."""
        ...


async def outlast(call: Callable[[], Awaitable[T]], watch: Stopwatch) -> T:
    """Make a call, again while the provider refuses it for its rate.

    A limiter that holds it until its deadline, as after a refusal, is the same. The
    model's own retries come first; these waits are as long as the provider says, or
    grow to 20 seconds.

    Raises:
        ProviderError: it was refused for PATIENCE_SECONDS, or the quota is spent.
        Exception: whatever the call raises.
    """
    until = trio.current_time() + PATIENCE_SECONDS
    for refusals in itertools.count(1):
        started = trio.current_time()
        try:
            return await call()
        except (RateLimitError, ProviderTimeoutError) as error:
            if isinstance(error, ProviderTimeoutError) and not error.is_limited:
                raise
            seconds = _WAITS.wait(refusals, error.retry_after)
            now = trio.current_time()
            if not error.retryable or now + seconds > until:
                raise
        watch.give_back(now - started)
        log.info("provider_waited_for", refusals=refusals, seconds=round(seconds, 1))
        with watch.suspended():
            await trio.sleep(seconds)
    raise AssertionError  # count() has no end
