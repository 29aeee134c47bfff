import gzip
import math
from email.utils import formatdate

import pytest
import trio
import trio.testing

from dspex.providers import (
    Attempt,
    BadRequestError,
    ProviderError,
    RateLimitError,
    RetryPolicy,
    ServerError,
)
from dspex.providers.replies import decompressed, retry_after
from dspex.providers.retries import with_retries


class Flaky:
    """Fails with these errors, one after another; then answers."""

    def __init__(self, *errors: Exception) -> None:
        self._errors = iter(errors)
        self.times: list[float] = []

    async def __call__(self) -> str:
        self.times.append(trio.current_time())
        await trio.sleep(1.0)
        for error in self._errors:
            raise error
        return "answer"


def server_error(retry_after: float | None = None) -> ServerError:
    return ServerError("it failed", provider="p", status=500, retry_after=retry_after)


async def test_waits_grow_and_the_history_tells_them(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("random.uniform", max)
    history: list[Attempt] = []
    flaky = Flaky(server_error(), server_error(), server_error())
    answer = await with_retries(
        flaky,
        policy=RetryPolicy(attempts=4, first_wait=0.5, longest_wait=1.5),
        deadline=math.inf,
        history=history,
    )
    assert answer == "answer"
    assert flaky.times == pytest.approx([0, 1.5, 3.5, 6.0])
    assert [attempt.waited for attempt in history] == [0.5, 1.0, 1.5]
    assert [attempt.started for attempt in history] == pytest.approx([0, 1.5, 3.5])
    assert [attempt.reason for attempt in history] == ["500"] * 3


async def test_jitter_is_full(autojump_clock: trio.testing.MockClock) -> None:
    waits = [RetryPolicy(first_wait=1.0).wait(1, None) for _ in range(1000)]
    assert min(waits) < 0.05
    assert max(waits) > 0.95
    assert sum(waits) / len(waits) == pytest.approx(0.5, abs=0.06)


async def test_a_retry_after_is_the_least_wait(
    autojump_clock: trio.testing.MockClock,
) -> None:
    flaky = Flaky(server_error(retry_after=30.0))
    await with_retries(flaky, policy=RetryPolicy(), deadline=math.inf, history=[])
    assert 31.0 <= flaky.times[1] <= 31.5


@pytest.mark.parametrize("attempts", [1, 3])
async def test_it_gives_up_after_so_many_attempts(
    attempts: int, autojump_clock: trio.testing.MockClock
) -> None:
    flaky = Flaky(*(server_error() for _ in range(9)))
    with pytest.raises(ServerError) as caught:
        await with_retries(
            flaky,
            policy=RetryPolicy(attempts=attempts),
            deadline=math.inf,
            history=[],
        )
    assert len(flaky.times) == attempts
    assert len(caught.value.attempts) == attempts
    assert caught.value.attempts[-1].waited == 0.0


async def test_a_wait_that_would_pass_the_deadline_is_not_begun(
    autojump_clock: trio.testing.MockClock,
) -> None:
    flaky = Flaky(server_error(retry_after=10.0))
    with pytest.raises(ServerError):
        await with_retries(flaky, policy=RetryPolicy(), deadline=10.0, history=[])
    assert trio.current_time() == 1.0


@pytest.mark.parametrize(
    "error",
    [
        BadRequestError("no", provider="p", status=400),
        RateLimitError("quota", provider="p", status=429, retryable=False),
    ],
)
async def test_what_cannot_help_is_not_retried(
    error: ProviderError, autojump_clock: trio.testing.MockClock
) -> None:
    flaky = Flaky(error)
    with pytest.raises(type(error)):
        await with_retries(flaky, policy=RetryPolicy(), deadline=math.inf, history=[])
    assert len(flaky.times) == 1


async def test_another_exception_passes_through_at_once(
    autojump_clock: trio.testing.MockClock,
) -> None:
    flaky = Flaky(ZeroDivisionError())
    with pytest.raises(ZeroDivisionError):
        await with_retries(flaky, policy=RetryPolicy(), deadline=math.inf, history=[])
    assert len(flaky.times) == 1


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"retry-after": "3"}, 3.0),
        ({"retry-after": "0.5"}, 0.5),
        ({"retry-after": "-3"}, 0.0),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "inf"}, 86_400.0),
        ({"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT"}, 0.0),
        ({"retry-after-ms": "250", "retry-after": "3"}, 0.25),
        ({"retry-after-ms": "x", "retry-after": "3"}, 3.0),
    ],
)
def test_retry_after_is_read(headers: dict[str, str], seconds: float | None) -> None:
    assert retry_after(headers) == seconds


def test_retry_after_may_be_a_date(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.time", lambda: 1_000_000.0)
    headers = {"retry-after": formatdate(1_000_030, usegmt=True)}
    assert retry_after(headers) == 30.0


def test_a_decompression_bomb_is_refused() -> None:
    bomb = gzip.compress(bytes(10_000_000))
    with pytest.raises(ValueError, match="over 1000000 bytes"):
        decompressed(bomb, "gzip", limit=1_000_000)


@pytest.mark.parametrize(
    ("body", "encoding", "problem"),
    [
        (b"plain", "br", "unknown content-encoding 'br'"),
        (b"plain", "gzip", "broken"),
        (b"12345", None, "over 4 bytes"),
    ],
)
def test_a_body_that_cannot_be_unpacked_is_an_error(
    body: bytes, encoding: str | None, problem: str
) -> None:
    with pytest.raises(ValueError, match=problem):
        decompressed(body, encoding, limit=4)
