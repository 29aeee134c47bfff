import contextlib
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager

import pytest
import trio
from trio.testing import MockClock

from dspex.providers import (
    AuthenticationError,
    Breaker,
    BreakerOpenError,
    BreakerState,
    Capabilities,
    Delta,
    Message,
    PartialResponseError,
    ProviderError,
    RateLimitError,
    Request,
    Response,
    ResponseStream,
    ServerError,
    UnsupportedError,
)
from dspex.testing import ScriptedLM

DOWN = ServerError("down", provider="p", status=500)


class Model:
    """A scripted model that is up or down."""

    def __init__(self, *, delay: float = 0.0) -> None:
        self.error: ProviderError | None = None
        self.lm = ScriptedLM(self._answer, delay=delay)

    def _answer(self, request: Request) -> str | Exception:
        return "ok" if self.error is None else self.error


async def fail(breaker: Breaker, error: type[ProviderError], times: int) -> None:
    for _ in range(times):
        with pytest.raises(error):
            await breaker.complete("x")


async def test_it_opens_after_failures_in_a_row_and_sends_nothing_then(
    autojump_clock: MockClock,
) -> None:
    model = Model()
    breaker = Breaker(model.lm, failures=3, open_seconds=10)
    model.error = DOWN
    await fail(breaker, ServerError, 2)
    model.error = None
    await breaker.complete("x")
    model.error = DOWN
    await fail(breaker, ServerError, 3)
    assert breaker.state is BreakerState.OPEN
    sent = len(model.lm.requests)
    await trio.sleep(4)
    with pytest.raises(BreakerOpenError, match=r"next try in 6\.0 s") as caught:
        await breaker.complete("x")
    assert caught.value.retry_after == 6.0
    assert len(model.lm.requests) == sent


async def test_one_probe_closes_it(autojump_clock: MockClock) -> None:
    model = Model(delay=1.0)
    breaker = Breaker(model.lm, failures=1, open_seconds=10)
    model.error = DOWN
    await fail(breaker, ServerError, 1)
    model.error = None
    await trio.sleep(10)
    outcomes: list[str] = []

    async def ask() -> None:
        try:
            outcomes.append((await breaker.complete("x")).text)
        except BreakerOpenError:
            outcomes.append("refused")

    async with trio.open_nursery() as nursery:
        for _ in range(5):
            nursery.start_soon(ask)
    assert sorted(outcomes) == ["ok", "refused", "refused", "refused", "refused"]
    assert breaker.state is BreakerState.CLOSED
    assert (await breaker.complete("x")).text == "ok"


async def test_a_failed_probe_opens_it_again(autojump_clock: MockClock) -> None:
    model = Model()
    breaker = Breaker(model.lm, failures=1, open_seconds=10)
    model.error = DOWN
    await fail(breaker, ServerError, 1)
    await trio.sleep(10)
    await fail(breaker, ServerError, 1)
    await fail(breaker, BreakerOpenError, 1)


async def test_a_cancelled_probe_lets_the_next_one_try(
    autojump_clock: MockClock,
) -> None:
    model = Model(delay=5.0)
    breaker = Breaker(model.lm, failures=1, open_seconds=10)
    model.error = DOWN
    await fail(breaker, ServerError, 1)
    model.error = None
    await trio.sleep(10)
    with trio.move_on_after(1):
        await breaker.complete("x")
    assert (await breaker.complete("x")).text == "ok"


class ByText(ScriptedLM):
    """Asked "9 ok" it answers after 9 s, asked "9 down" it fails then."""

    async def complete(
        self,
        request: Request | str | Sequence[Message],
        *,
        timeout: float | None = None,
    ) -> Response:
        seconds, how = Request.of(request).messages[0].text.split()
        await trio.sleep(float(seconds))
        if how == "down":
            raise DOWN
        return await super().complete(request)


@pytest.mark.parametrize("ends", ["15 ok", "15 down", "15 cancelled"])
async def test_a_call_from_before_it_opened_has_no_say_about_the_probe(
    ends: str, autojump_clock: MockClock
) -> None:
    """It opens at 1 s; the probe runs from 12 to 22 s, the old call ends at 15 s."""
    breaker = Breaker(ByText(lambda _: "ok"), failures=1, open_seconds=10)

    async def ask_first() -> None:
        with (
            trio.move_on_after(15 if "cancelled" in ends else 99),
            contextlib.suppress(ServerError),
        ):
            await breaker.complete(ends)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask_first)
        with pytest.raises(ServerError):
            await breaker.complete("1 down")
        await trio.sleep(11)
        nursery.start_soon(breaker.complete, "10 ok")
        await trio.sleep(5)
        with pytest.raises(BreakerOpenError):
            await breaker.complete("1 ok")
    assert breaker.state is BreakerState.CLOSED


@pytest.mark.parametrize(
    "error",
    [
        RateLimitError("slow down", provider="p", status=429),
        AuthenticationError("no", provider="p", status=401),
    ],
)
async def test_what_is_not_the_models_fault_does_not_count(
    error: ProviderError,
) -> None:
    model = Model()
    breaker = Breaker(model.lm, failures=1)
    model.error = error
    await fail(breaker, type(error), 3)
    assert breaker.state is BreakerState.CLOSED


async def test_streams_count_as_well() -> None:
    model = Model()
    breaker = Breaker(model.lm, failures=1)
    async with breaker.stream("x") as stream:
        assert (await stream.read()).text == "ok"
    model.error = DOWN
    with pytest.raises(ServerError):
        async with breaker.stream("x"):
            pass
    with pytest.raises(BreakerOpenError):
        async with breaker.stream("x"):
            pass


class Breaking(ScriptedLM):
    """Breaks every stream off after its first delta, as long as `is_down`."""

    is_down = True

    @asynccontextmanager
    async def stream(
        self,
        request: Request | str | Sequence[Message],
        *,
        timeout: float | None = None,
    ) -> AsyncGenerator[ResponseStream]:
        async with super().stream(request, timeout=timeout) as whole:
            told = 0

            async def more() -> Sequence[Delta]:
                nonlocal told
                async for delta in whole:
                    told += 1
                    if self.is_down and told > 1:
                        raise PartialResponseError(
                            "reset", provider="p", model="m", partial="the "
                        )
                    return (delta,)
                stream.complete(whole.response)
                return ()

            stream = ResponseStream((), more)
            yield stream


async def test_streams_that_break_off_open_it_and_one_that_begins_closes_it(
    autojump_clock: MockClock,
) -> None:
    lm = Breaking(lambda _: "the answer")
    breaker = Breaker(lm, failures=3, open_seconds=10)
    for _ in range(3):
        assert breaker.state is BreakerState.CLOSED
        with pytest.raises(PartialResponseError):
            async with breaker.stream("x") as stream:
                await stream.read()
    with pytest.raises(BreakerOpenError):
        async with breaker.stream("x"):
            pass
    await trio.sleep(10)
    lm.is_down = False
    async with breaker.stream("x") as stream:
        assert breaker.state is BreakerState.CLOSED
        assert (await stream.read()).text == "the answer"


@pytest.mark.parametrize("mishap", [DOWN, ValueError("mine"), "cancelled", "left"])
async def test_what_happens_to_the_reader_of_a_stream_is_not_the_models_failure(
    mishap: Exception | str,
) -> None:
    breaker = Breaker(ScriptedLM(lambda _: "the answer"), failures=1)

    async def read_a_little() -> None:
        with trio.CancelScope() as scope:
            async with breaker.stream("x") as stream:
                await stream.__anext__()
                if isinstance(mishap, Exception):
                    raise mishap
                if mishap == "cancelled":
                    scope.cancel()
                    await trio.lowlevel.checkpoint()

    for _ in range(3):
        with contextlib.suppress(ServerError, ValueError):
            await read_a_little()
        assert breaker.state is BreakerState.CLOSED


async def test_a_request_that_the_model_cannot_take_is_not_its_failure() -> None:
    lm = ScriptedLM(lambda _: "ok", capabilities=Capabilities(max_n=1, streaming=True))
    breaker = Breaker(lm, failures=1)
    for _ in range(3):
        with pytest.raises(UnsupportedError):
            async with breaker.stream(Request((Message.user("x"),), n=2)):
                pass
        with pytest.raises(UnsupportedError):
            await breaker.complete(Request((Message.user("x"),), n=2))
    assert breaker.state is BreakerState.CLOSED


async def test_a_stream_left_early_between_failures_begins_the_count_anew() -> None:
    model = Model()
    breaker = Breaker(model.lm, failures=2)
    for _ in range(3):
        model.error = DOWN
        await fail(breaker, ServerError, 1)
        model.error = None
        async with breaker.stream("x"):
            pass
    assert breaker.state is BreakerState.CLOSED
