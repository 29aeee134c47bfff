import pytest
import trio

from dspex.providers import (
    Anthropic,
    Breaker,
    BreakerState,
    Limits,
    OpenAI,
    ProviderTimeoutError,
    RateLimiter,
    RetryPolicy,
    SharedLimiter,
    Usage,
)
from dspex.runtime import open_node
from dspex.testing import Answer, Fail, open_fake_provider


@pytest.mark.parametrize("provider", [OpenAI, Anthropic])
@pytest.mark.parametrize("streaming", [False, True], ids=["whole", "streamed"])
async def test_a_retry_after_pauses_every_client_of_the_key(
    provider: type[OpenAI] | type[Anthropic], streaming: bool
) -> None:
    async with open_fake_provider() as server, open_node() as node:
        await node.start(RateLimiter(Limits(concurrency=50)), name="key")
        limiter = SharedLimiter(node.registry, "key")
        lms = [
            provider("m", api_key="k", base_url=server.url, limiter=limiter)
            for _ in range(2)
        ]
        times: list[float] = []

        async def ask(lm: OpenAI | Anthropic) -> None:
            if streaming:
                async with lm.stream("x") as stream:
                    await stream.read()
            else:
                await lm.complete("x")
            times.append(trio.current_time())

        server.plan([Fail(429, headers={"retry-after": "0.5"})])
        started = trio.current_time()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask, lms[0])
            await trio.sleep(0.1)
            for lm in lms * 3:
                nursery.start_soon(ask, lm)
        assert len(times) == 7
        assert min(times) - started >= 0.5
        ref = node.registry.whereis("key")
        assert ref is not None
        statistics = await ref.call(RateLimiter.statistics)
        assert statistics.running == 0
        for lm in lms:
            await lm.aclose()


@pytest.mark.parametrize("streaming", [False, True], ids=["whole", "streamed"])
async def test_a_call_that_its_limiter_held_too_long_is_no_failure_of_the_model(
    streaming: bool,
) -> None:
    async with open_fake_provider() as server, open_node() as node:
        limiter = await node.start(RateLimiter(Limits()), name="key")
        await limiter.call(RateLimiter.pause, 60)
        shared = SharedLimiter(node.registry, "key")
        async with OpenAI("m", api_key="k", base_url=server.url, limiter=shared) as lm:
            breaker = Breaker(lm, failures=1)
            problem = r"within 0\.05 s: its limiter let it wait"

            async def ask() -> None:
                if not streaming:
                    await breaker.complete("x", timeout=0.05)
                    return
                async with breaker.stream("x", timeout=0.05):
                    pass

            with pytest.raises(ProviderTimeoutError, match=problem) as caught:
                await ask()
        assert caught.value.is_limited
        assert breaker.state is BreakerState.CLOSED
        assert server.requests == []


async def test_a_provider_with_nothing_left_is_left_alone_until_its_reset() -> None:
    async with open_fake_provider() as server, open_node() as node:
        await node.start(RateLimiter(Limits()), name="key")
        spent = {
            "x-ratelimit-remaining-requests": "0",
            "x-ratelimit-reset-requests": "300ms",
        }
        server.plan([Answer(headers=spent)])
        limiter = SharedLimiter(node.registry, "key")
        async with OpenAI("m", api_key="k", base_url=server.url, limiter=limiter) as lm:
            assert (await lm.complete("x")).seconds < 0.25
            assert (await lm.complete("x")).seconds > 0.25


async def test_tokens_are_settled_by_real_usage() -> None:
    async with open_fake_provider() as server, open_node() as node:
        server.plan(lambda _: Answer(usage=Usage(10, 10)))
        # 1,000 a second; the estimate of a call is over 256.
        await node.start(RateLimiter(Limits(tokens_per_minute=60_000)), name="key")
        limiter = SharedLimiter(node.registry, "key")
        async with OpenAI(
            "m",
            api_key="k",
            base_url=server.url,
            limiter=limiter,
            retries=RetryPolicy(attempts=1),
        ) as lm:
            started = trio.current_time()
            for _ in range(20):
                await lm.complete("x")
        # By the estimates alone it would have taken over 4 s.
        assert trio.current_time() - started < 2
