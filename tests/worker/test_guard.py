"""How often a client may ask."""

import pytest
import trio
import trio.testing

pytest.importorskip("starlette")
pytest.importorskip("h11")

from dspex.worker.guard import RateLimiter


@pytest.mark.parametrize(
    ("per_minute", "burst"), [(1, 10), (60, 10), (600, 100), (60_000, 10_000)]
)
async def test_ten_seconds_worth_may_come_at_once(
    per_minute: float, burst: int, autojump_clock: trio.testing.MockClock
) -> None:
    limiter = RateLimiter(per_minute)
    assert not any(limiter.take("a") for _ in range(burst))
    wait = limiter.take("a")
    assert wait == pytest.approx(60 / per_minute)
    assert limiter.take("b") == 0
    await trio.sleep(wait * 1.001)
    assert limiter.take("a") == 0
    assert limiter.take("a") > 0


async def test_who_asks_evenly_gets_as_many_a_minute_as_the_setting_says(
    autojump_clock: trio.testing.MockClock,
) -> None:
    limiter = RateLimiter(60)
    let_in = 0
    for _ in range(600):  # ten minutes, two each second
        for _ in range(2):
            let_in += not limiter.take("a")
        await trio.sleep(1)
    assert 600 <= let_in <= 611
