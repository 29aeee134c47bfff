import pytest
import trio
from trio.testing import MockClock

from dspex.providers import (
    AllModelsFailedError,
    AuthenticationError,
    Capabilities,
    Fallback,
    InvalidRequestError,
    ProviderTimeoutError,
    Request,
    ServerError,
    ToolSpec,
    UnsupportedError,
)
from dspex.providers.messages import Message
from dspex.testing import ScriptedLM

DOWN = ServerError("down", provider="p", status=500)
DENIED = AuthenticationError("no", provider="p", status=401)


async def test_the_next_model_gets_the_same_request() -> None:
    first, second = ScriptedLM([DOWN, DENIED, "up"]), ScriptedLM(["one", "two"])
    fallback = Fallback([first, second])
    assert (await fallback.complete("a")).text == "one"
    assert (await fallback.complete("b")).text == "two"
    assert (await fallback.complete("c")).text == "up"
    assert second.requests == first.requests[:2]


async def test_when_all_fail_each_reason_is_told() -> None:
    fallback = Fallback([ScriptedLM([DOWN]), ScriptedLM([DENIED])])
    with pytest.raises(AllModelsFailedError, match=r"down.*; .*no") as caught:
        await fallback.complete("x")
    assert caught.value.errors == [DOWN, DENIED]
    assert caught.value.retryable


async def test_a_request_wrong_for_one_is_wrong_for_all() -> None:
    wrong = InvalidRequestError("messages", (), "is wrong")
    second = ScriptedLM(["x"])
    with pytest.raises(InvalidRequestError):
        await Fallback([ScriptedLM([wrong]), second]).complete("x")
    assert second.requests == []


async def test_a_model_that_cannot_is_passed_over() -> None:
    small = ScriptedLM([], capabilities=Capabilities(tools=False))
    fallback = Fallback([small, ScriptedLM(["ok"])])
    request = Request((Message.user("x"),), tools=(ToolSpec("t", "", {}),))
    assert (await fallback.complete(request)).text == "ok"
    assert not fallback.capabilities.tools
    with pytest.raises(AllModelsFailedError) as caught:
        await Fallback([small]).complete(request)
    assert isinstance(caught.value.errors[0], UnsupportedError)


async def test_a_model_that_hangs_leaves_time_for_the_others(
    autojump_clock: MockClock,
) -> None:
    slow = ScriptedLM(lambda _: "late", delay=60)
    fallback = Fallback([slow, slow, ScriptedLM(["ok"], delay=2)])
    assert (await fallback.complete("x", timeout=9)).text == "ok"
    assert trio.current_time() == pytest.approx(8)
    with pytest.raises(AllModelsFailedError) as caught:
        await Fallback([slow, slow]).complete("x", timeout=4)
    assert isinstance(caught.value.errors[1], ProviderTimeoutError)


async def test_streams_fall_back_before_they_begin() -> None:
    fallback = Fallback([ScriptedLM([DOWN, DOWN]), ScriptedLM(["streamed", DENIED])])
    async with fallback.stream("x") as stream:
        assert (await stream.read()).text == "streamed"
    with pytest.raises(AllModelsFailedError):
        async with fallback.stream("x"):
            pass


def test_a_list_without_models_is_refused() -> None:
    with pytest.raises(InvalidRequestError):
        Fallback([])
