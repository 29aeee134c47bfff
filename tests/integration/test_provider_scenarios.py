"""Acceptance scenarios B3 to B6: what a provider's faults cost, over real sockets."""

import json
from collections.abc import AsyncGenerator

import pytest
import structlog.testing
import trio
import trio.testing

from dspex.modules import Predict
from dspex.providers import (
    AuthenticationError,
    Breaker,
    BreakerOpenError,
    ConnectionFailedError,
    Fallback,
    Limits,
    OpenAI,
    ProviderTimeoutError,
    RateLimiter,
    RetryPolicy,
    ServerError,
    SharedLimiter,
)
from dspex.providers.breaker import BreakerState
from dspex.runtime import open_node
from dspex.testing import (
    Action,
    Answer,
    Fail,
    FakeProvider,
    Hang,
    Truncate,
    open_fake_provider,
)

KEY = "sk-scenario-0123456789"
QUICK = RetryPolicy(attempts=3, first_wait=0.02, longest_wait=0.05)
ONCE = RetryPolicy(attempts=1)
ANSWER = Answer(json.dumps({"answer": "yes"}))


@pytest.fixture
async def server() -> AsyncGenerator[FakeProvider]:
    async with open_fake_provider() as server:
        yield server


def client(server: FakeProvider, retries: RetryPolicy = QUICK) -> OpenAI:
    return OpenAI("m", api_key=KEY, base_url=server.url, retries=retries, timeout=5.0)


async def test_b3_a_busy_then_a_broken_server_is_asked_until_it_answers(
    server: FakeProvider,
) -> None:
    busy = Fail(429, headers={"retry-after": "0.3"})
    server.plan([busy, Fail(500), ANSWER])
    async with client(server) as lm:
        began = trio.current_time()
        response = await lm.complete("x")
        assert trio.current_time() - began >= 0.3
    assert json.loads(response.text) == {"answer": "yes"}
    assert len(server.requests) == 3


async def test_b3_a_wrong_key_is_not_tried_again_and_shown_nowhere(
    server: FakeProvider,
) -> None:
    server.plan([Fail(401, f"bad key {KEY}")])
    async with client(server) as lm:
        with (
            structlog.testing.capture_logs() as logs,
            pytest.raises(AuthenticationError) as caught,
        ):
            await lm.complete("x")
    assert len(server.requests) == 1
    assert KEY not in f"{caught.value} {caught.value!r} {vars(caught.value)} {logs}"


@pytest.mark.parametrize(
    ("fault", "error"),
    [(Truncate(), ConnectionFailedError), (Hang(), ProviderTimeoutError)],
)
async def test_b4_a_broken_answer_is_a_typed_error_and_the_client_goes_on(
    fault: Action, error: type[Exception], server: FakeProvider
) -> None:
    server.plan([fault, ANSWER])
    async with client(server, ONCE) as lm:
        with pytest.raises(error):
            await lm.complete("x", timeout=0.3)
        assert json.loads((await lm.complete("x")).text) == {"answer": "yes"}


async def test_b4_a_cancelled_forward_closes_its_request_and_frees_its_slot(
    server: FakeProvider,
) -> None:
    server.plan([Hang(), ANSWER])
    async with open_node() as node:
        await node.start(RateLimiter(Limits(concurrency=1)), name="key")
        limiter = SharedLimiter(node.registry, "key")
        lm = OpenAI("m", api_key=KEY, base_url=server.url, limiter=limiter)
        predict = Predict("question -> answer", lm=lm)
        async with lm:
            with trio.move_on_after(0.3) as scope:
                await predict(question="?")
            assert scope.cancelled_caught
            with trio.fail_after(3):
                while server.disconnects < 1:
                    await trio.sleep(0.005)
                assert (await predict(question="?")).answer == "yes"
            ref = await node.registry.wait_for("key")
            assert (await ref.call(RateLimiter.statistics)).running == 0


async def test_b5_fifty_callers_keep_to_the_rate_and_none_starves(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with open_node() as node:
        await node.start(RateLimiter(Limits(requests_per_minute=600)), name="key")
        limiter = SharedLimiter(node.registry, "key")
        times: list[tuple[float, int]] = []

        async def caller(number: int) -> None:
            for _ in range(4):
                async with limiter.permit(1):
                    times.append((trio.current_time(), number))

        async with trio.open_nursery() as nursery:
            for number in range(50):
                nursery.start_soon(caller, number)
    times.sort()
    assert len(times) == 200
    # Of any second, at most its share and the burst of a second.
    for at, _ in times:
        assert sum(at <= other < at + 1.0 for other, _ in times) <= 21
    # In the first half everybody has had a turn.
    assert {number for _, number in times[:100]} == set(range(50))


async def test_b6_the_breaker_opens_half_opens_and_closes(
    server: FakeProvider,
) -> None:
    server.plan([Fail(500), Fail(500), Fail(500), ANSWER, ANSWER])
    async with client(server, ONCE) as lm:
        breaker = Breaker(lm, failures=2, open_seconds=0.2)
        for _ in range(2):
            with pytest.raises(ServerError):
                await breaker.complete("x")
        with pytest.raises(BreakerOpenError):
            await breaker.complete("x")
        assert len(server.requests) == 2
        await trio.sleep(0.25)
        with pytest.raises(ServerError):  # half-open: the probe fails
            await breaker.complete("x")
        with pytest.raises(BreakerOpenError):
            await breaker.complete("x")
        await trio.sleep(0.25)
        await breaker.complete("x")
        assert breaker.state is BreakerState.CLOSED


async def test_b6_the_fallback_is_asked_with_the_same_prompt(
    server: FakeProvider,
) -> None:
    server.plan([Fail(500)])
    async with open_fake_provider([ANSWER]) as second:
        async with client(server, ONCE) as one, client(second, ONCE) as two:
            predict = Predict("question -> answer", lm=Fallback([Breaker(one), two]))
            assert (await predict(question="?")).answer == "yes"
        (first_request,), (second_request,) = server.requests, second.requests
        assert first_request.json["messages"] == second_request.json["messages"]
