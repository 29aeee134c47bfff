"""Every fault of the fake server, with both APIs, streaming or not."""

import random
from bisect import bisect_left
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import pytest
import trio
import trio.testing

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


CALLERS = 200


class Back:
    """A server that is gone, or answers 503, for 5 s; knows who came when."""

    def __init__(self) -> None:
        self.since = trio.current_time() + 5
        self.early: list[float] = []
        self.late: list[float] = []

    def __call__(self, _: ProviderRequest) -> Action:
        now = trio.current_time()
        if now < self.since:
            self.early.append(now)
            return Fail(503)
        self.late.append(now)
        return Answer(delay=0.5)

    @asynccontextmanager
    async def opened(self, *, is_gone: bool) -> AsyncGenerator[FakeProvider]:
        """Serve; `is_gone` lets nobody connect before it is back."""
        async with open_fake_provider(self) as first:
            port = int(first.url.split(":")[2].split("/")[0])
            if not is_gone:
                yield first
                return
        async with trio.open_nursery() as nursery:
            second = FakeProvider(self, first.url)

            async def come_back() -> None:
                await trio.sleep_until(self.since)
                await trio.serve_tcp(second.serve, port, host="127.0.0.1", backlog=4096)

            nursery.start_soon(come_back)
            yield second
            nursery.cancel_scope.cancel()


def most_within(times: list[float], seconds: float) -> int:
    """Give how many came in the busiest window of that length."""
    return max(bisect_left(times, at + seconds) - n for n, at in enumerate(times))


@pytest.mark.parametrize(
    ("provider", "is_gone", "concurrency"),
    [(OpenAI, True, None), (Anthropic, False, None), (OpenAI, False, 10)],
)
async def test_a_server_that_is_down_for_a_while_is_waited_for_without_a_stampede(
    autojump_clock: trio.testing.MockClock,
    provider: type[OpenAI] | type[Anthropic],
    is_gone: bool,
    concurrency: int | None,
) -> None:
    """On a clock of its own: on a busy machine overdue callers come at once."""
    patient = RetryPolicy(attempts=40, first_wait=0.1, longest_wait=2.0)
    back = Back()
    answers: list[str] = []

    async def ask_one() -> None:
        answers.append((await lm.complete("x", timeout=60)).text)

    async with (
        open_node() as node,
        back.opened(is_gone=is_gone) as server,
        provider(
            "m",
            api_key="k",
            base_url=server.url,
            retries=patient,
            limiter=SharedLimiter(node.registry, "key"),
        ) as lm,
    ):
        await node.start(RateLimiter(Limits(concurrency=concurrency)), name="key")
        async with trio.open_nursery() as nursery:
            for _ in range(CALLERS):
                nursery.start_soon(ask_one)
    assert answers == ["ok"] * CALLERS
    assert len(back.late) == CALLERS
    # Once the waits have grown to 2 s, a caller comes once a second: 20 in 0.1 s, of
    # which 45 are 5 standard deviations too many. Nothing brings them together.
    settled = [at for at in back.early if at > back.since - 2]
    assert most_within([*settled, *back.late], 0.1) < 45
    if concurrency is not None:
        # This is certain, and not by chance.
        assert server.most_open_connections <= concurrency


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
