import pytest
import trio.testing

from dspex.providers import (
    Choice,
    Message,
    ProviderTimeoutError,
    Request,
    Response,
    ToolSpec,
    UnsupportedError,
    Usage,
)
from dspex.providers.lm import LM, Capabilities
from dspex.testing import ScriptedLM, ScriptEndedError


async def test_lines_are_given_in_order() -> None:
    whole = Response((Choice("second"),), Usage(1, 1), "m")
    lm: LM = ScriptedLM(["first", whole, ZeroDivisionError()])
    assert (await lm.complete("a b c")).text == "first"
    assert await lm.complete("x") is whole
    with pytest.raises(ZeroDivisionError):
        await lm.complete("x")
    with pytest.raises(ScriptEndedError, match=r"3 lines.*'last'"):
        await lm.complete("last")


async def test_a_rule_answers_every_request() -> None:
    lm = ScriptedLM(lambda request: request.messages[-1].text.upper())
    request = Request((Message.user("hello you"),), n=2)
    response = await lm.complete(request)
    assert [choice.text for choice in response.choices] == ["HELLO YOU"] * 2
    assert response.usage == Usage(2, 4)
    assert lm.requests == [request]


async def test_a_delay_meets_the_timeout(
    autojump_clock: trio.testing.MockClock,
) -> None:
    lm = ScriptedLM(lambda _: "x", delay=2.0)
    assert (await lm.complete("x", timeout=3)).seconds == 2.0
    with pytest.raises(ProviderTimeoutError):
        await lm.complete("x", timeout=1)
    assert trio.current_time() == 3.0


async def test_it_refuses_what_it_cannot_do() -> None:
    lm = ScriptedLM([], capabilities=Capabilities(tools=False))
    with pytest.raises(UnsupportedError):
        await lm.complete(Request((Message.user("x"),), tools=(ToolSpec("t", "", {}),)))
