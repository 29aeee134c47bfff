"""Every fault of the fake server, with both APIs, streaming or not."""

import random
from collections.abc import AsyncGenerator

import pytest
import trio

from dspex.providers import (
    Anthropic,
    AuthenticationError,
    BadRequestError,
    ConnectionFailedError,
    Limits,
    MalformedResponseError,
    OpenAI,
    PartialResponseError,
    ProviderError,
    ProviderTimeoutError,
    RateLimiter,
    RateLimitError,
    RetryPolicy,
    ServerError,
    SharedLimiter,
    StreamingLM,
    TextDelta,
    Transport,
)
from dspex.runtime import open_node
from dspex.testing import (
    Action,
    Answer,
    Drip,
    Fail,
    FailInStream,
    FakeProvider,
    Hang,
    Huge,
    ProviderRequest,
    Raw,
    Reset,
    Truncate,
    WrongLength,
    open_fake_provider,
)

QUICK = RetryPolicy(attempts=3, first_wait=0.005, longest_wait=0.01)


# A fault, and how a call ends that meets nothing else.
LASTING: list[tuple[Action, type[ProviderError], type[ProviderError]]] = [
    (Fail(400), BadRequestError, BadRequestError),
    (Fail(401), AuthenticationError, AuthenticationError),
    (Fail(429), RateLimitError, RateLimitError),
    (Fail(500), ServerError, ServerError),
    (Fail(529), ServerError, ServerError),
    (Raw(b"rubbish"), MalformedResponseError, ConnectionFailedError),
    (Raw(b"data: {]\n\n"), MalformedResponseError, MalformedResponseError),
    (Reset(), ConnectionFailedError, ConnectionFailedError),
    (Reset(after=30), ConnectionFailedError, ConnectionFailedError),
    (Truncate(60), ConnectionFailedError, PartialResponseError),
    (WrongLength(), ConnectionFailedError, PartialResponseError),
    (Huge(600_000), MalformedResponseError, MalformedResponseError),
    (Hang(), ProviderTimeoutError, ProviderTimeoutError),
    (Drip(1, pace=0.05), ProviderTimeoutError, ProviderTimeoutError),
]
# What a retry makes good, as long as no delta has been handed out.
PASSING: list[Action] = [
    Fail(408),
    Fail(409),
    Fail(429, headers={"retry-after": "0.05"}),
    Fail(500),
    Fail(529),
    Raw(b"rubbish"),
    Raw(b"data: {]\n\n"),
    Raw(b'{"choices": [], "content": 3}'),
    Reset(),
    Reset(after=30),
    Truncate(10_000),
    Drip(size=3),
]


@pytest.fixture
async def server() -> AsyncGenerator[FakeProvider]:
    async with open_fake_provider() as server:
        yield server


@pytest.fixture(params=[OpenAI, Anthropic])
def provider(request: pytest.FixtureRequest) -> type[OpenAI] | type[Anthropic]:
    chosen: type[OpenAI] | type[Anthropic] = request.param
    return chosen


@pytest.fixture(autouse=True)
def small_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dspex.providers.endpoint.MAX_BODY_BYTES", 500_000)
    monkeypatch.setattr("dspex.providers.sse.MAX_EVENT_BYTES", 500_000)


async def ask(lm: StreamingLM, streaming: bool, *, timeout: float) -> str:
    if not streaming:
        return (await lm.complete("x", timeout=timeout)).text
    async with lm.stream("x", timeout=timeout) as stream:
        deltas = [delta async for delta in stream]
    text = "".join(d.text for d in deltas if isinstance(d, TextDelta))
    assert stream.response.text == text
    return text


@pytest.mark.parametrize("streaming", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize(("fault", "whole", "streamed"), LASTING, ids=repr)
async def test_a_fault_that_lasts_ends_in_its_error_and_leaks_nothing(
    server: FakeProvider,
    provider: type[OpenAI] | type[Anthropic],
    fault: Action,
    whole: type[ProviderError],
    streamed: type[ProviderError],
    streaming: bool,
) -> None:
    server.plan(lambda _: fault)
    async with Transport() as transport:
        lm = provider(
            "m", api_key="k", base_url=server.url, retries=QUICK, transport=transport
        )
        with trio.fail_after(3), pytest.raises(ProviderError) as caught:
            await ask(lm, streaming, timeout=0.4)
        assert type(caught.value) is (streamed if streaming else whole)
        assert transport.statistics().busy == 0
        server.plan([])
        assert await ask(lm, streaming, timeout=5) == "ok"
        assert transport.statistics().idle == 1
    with trio.fail_after(2):
        while server.open_connections:
            await trio.sleep(0.005)


@pytest.mark.parametrize("streaming", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("fault", PASSING, ids=repr)
async def test_a_fault_that_passes_is_not_seen(
    server: FakeProvider,
    provider: type[OpenAI] | type[Anthropic],
    fault: Action,
    streaming: bool,
) -> None:
    server.plan([fault, fault])
    async with Transport() as transport:
        lm = provider(
            "m", api_key="k", base_url=server.url, retries=QUICK, transport=transport
        )
        assert await ask(lm, streaming, timeout=5) == "ok"
        assert transport.statistics().busy == 0


async def test_a_stream_that_fails_before_its_first_token_is_retried(
    server: FakeProvider, provider: type[OpenAI] | type[Anthropic]
) -> None:
    server.plan([FailInStream(events=0), FailInStream(events=0)])
    async with provider("m", api_key="k", base_url=server.url, retries=QUICK) as lm:
        assert await ask(lm, True, timeout=5) == "ok"
    assert len(server.requests) == 3


async def test_a_stream_that_fails_later_keeps_what_came(
    server: FakeProvider, provider: type[OpenAI] | type[Anthropic]
) -> None:
    server.plan([FailInStream(events=5, message="overloaded")])
    async with provider("m", api_key="k", base_url=server.url, retries=QUICK) as lm:
        with pytest.raises(PartialResponseError, match="overloaded") as caught:
            await ask(lm, True, timeout=5)
    assert "a long answer".startswith(caught.value.partial)
    assert caught.value.partial
    assert len(server.requests) == 1


async def test_a_server_that_is_gone_for_a_while_is_waited_for_without_a_stampede(
    provider: type[OpenAI] | type[Anthropic],
) -> None:
    answers: list[str] = []
    arrivals: list[float] = []
    patient = RetryPolicy(attempts=30, first_wait=0.1, longest_wait=2.0)

    def arrive(_: ProviderRequest) -> Action:
        arrivals.append(trio.current_time())
        return Answer()

    async def ask_one() -> None:
        answers.append((await lm.complete("x", timeout=40)).text)

    async with open_fake_provider() as first:
        port = int(first.url.split(":")[2].split("/")[0])
        lm = provider("m", api_key="k", base_url=first.url, retries=patient)
        await lm.complete("x")
    async with lm, trio.open_nursery() as nursery:
        for _ in range(200):
            nursery.start_soon(ask_one)
        await trio.sleep(5.0)
        async with open_fake_provider(port=port) as second:
            second.plan(arrive)
            with trio.fail_after(20):
                while len(answers) < 200:
                    await trio.sleep(0.01)
    assert answers == ["ok"] * 200
    assert len(arrivals) == 200
    # They come back spread over their waits of up to 2 s: 10 would, in 0.1 s.
    assert sum(time < arrivals[0] + 0.1 for time in arrivals) < 100


@pytest.mark.parametrize("streaming", [False, True], ids=["whole", "streamed"])
async def test_a_thousand_cancelled_callers_leave_nothing_behind(
    server: FakeProvider,
    provider: type[OpenAI] | type[Anthropic],
    streaming: bool,
) -> None:
    """At random moments: waiting for a slot, connecting, sending, reading, done."""
    chance = random.Random(7)
    server.plan(lambda _: Answer("a long answer", delay=chance.random() / 5, pace=0.01))
    async with Transport() as transport, open_node() as node:
        limiter = await node.start(RateLimiter(Limits(concurrency=100)), name="key")
        lm = provider(
            "m",
            api_key="k",
            base_url=server.url,
            retries=QUICK,
            transport=transport,
            limiter=SharedLimiter(node.registry, "key"),
        )
        ends = {"answered": 0, "cancelled": 0}

        async def ask_and_leave(seconds: float) -> None:
            with trio.move_on_after(seconds) as scope:
                assert await ask(lm, streaming, timeout=30) == "a long answer"
            ends["cancelled" if scope.cancelled_caught else "answered"] += 1

        async with trio.open_nursery() as nursery:
            for number in range(1000):
                patience = 30.0 if number % 10 == 0 else chance.random() * 1.5
                nursery.start_soon(ask_and_leave, patience)
        assert sum(ends.values()) == 1000
        assert ends["cancelled"] > 100
        assert ends["answered"] >= 100
        assert transport.statistics().busy == 0
        statistics = await limiter.call(RateLimiter.statistics)
        assert (statistics.running, statistics.waiting) == (0, 0)
        # The server sees every cancelled call's connection go; the idle ones stay.
        with trio.fail_after(5):
            while server.open_connections > transport.statistics().idle:
                await trio.sleep(0.01)
        server.plan([])
        assert await ask(lm, streaming, timeout=5) == "ok"
