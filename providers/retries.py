"""Transport retries: the same request again, when that can help.

Full jitter (a uniform wait up to an exponentially growing bound) spreads callers that
failed together; a Retry-After of the provider is a lower bound to it.
"""

import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

import tenacity
import trio

from dspex.providers.errors import Attempt, ProviderError
from dspex.runtime.log import get_logger

T = TypeVar("T")

_log = get_logger()


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How often and how patiently to try; waits are in seconds.

    The wait after the n-th failure is uniform between 0 and
    `first_wait * 2 ** (n - 1)`, at most `longest_wait`. A Retry-After comes on top.
    """

    attempts: int = 5
    first_wait: float = 0.5
    longest_wait: float = 20.0

    def wait(self, failures: int, retry_after: float | None) -> float:
        """Give the seconds to wait after this many failures."""
        bound = min(self.longest_wait, self.first_wait * 2 ** (failures - 1))
        return (retry_after or 0.0) + random.uniform(0.0, bound)


NO_RETRIES = RetryPolicy(attempts=1)


async def with_retries(
    attempt: Callable[[], Awaitable[T]],
    *,
    policy: RetryPolicy,
    deadline: float,
    history: list[Attempt],
) -> T:
    """Run `attempt` until it succeeds, and give its answer.

    `history` gets an entry for each failed try. An error that is not retryable ends
    it at once, and so does a wait that would pass `deadline` (trio's clock): the
    caller hears of the failure instead of a timeout.

    Raises:
        ProviderError: the last error, with all attempts in it.
    """
    origin = trio.current_time()

    async def tried() -> T:
        started = trio.current_time()
        try:
            return await attempt()
        except ProviderError as error:
            seconds = trio.current_time() - started
            history.append(Attempt(started - origin, seconds, _reason(error)))
            error.attempts = history
            raise

    try:
        return await tried()
    except ProviderError as error:
        if policy.attempts <= 1 or not error.retryable:
            raise
        failure: ProviderError | None = error

    # Most calls need one attempt, so the machinery is set up after the first, which
    # it is told of here.
    async def tried_again() -> T:
        nonlocal failure
        if failure is not None:
            first, failure = failure, None
            raise first
        return await tried()

    def should_stop(state: tenacity.RetryCallState) -> bool:
        late = trio.current_time() + state.upcoming_sleep >= deadline
        return state.attempt_number >= policy.attempts or late

    def wait(state: tenacity.RetryCallState) -> float:
        error = state.outcome.exception() if state.outcome else None
        retry_after = error.retry_after if isinstance(error, ProviderError) else None
        return policy.wait(state.attempt_number, retry_after)

    def before_sleep(state: tenacity.RetryCallState) -> None:
        last = history[-1]
        wait = state.upcoming_sleep
        history[-1] = Attempt(last.started, last.seconds, last.reason, wait)
        _log.info(
            "model_call_retried",
            attempt=state.attempt_number,
            reason=last.reason,
            wait=round(wait, 3),
        )

    retrying = tenacity.AsyncRetrying(
        sleep=trio.sleep,
        retry=tenacity.retry_if_exception(_is_retryable),
        stop=should_stop,
        wait=wait,
        before_sleep=before_sleep,
        reraise=True,
    )
    return await retrying(tried_again)


def _is_retryable(error: BaseException) -> bool:
    return isinstance(error, ProviderError) and error.retryable


def _reason(error: ProviderError) -> str:
    return type(error).__name__ if error.status is None else str(error.status)
