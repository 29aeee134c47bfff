"""What is asked before a request is sent, each time."""

import pytest
import trio

from dspex.providers import OpenAI
from dspex.runtime.context import before_send
from dspex.testing import Answer, Fail, open_fake_provider


async def test_each_try_asks_when_it_has_a_connection() -> None:
    asked: list[int] = []

    async def check() -> None:
        asked.append(len(server.requests))
        await trio.lowlevel.checkpoint()

    async with (
        open_fake_provider([Fail(503), Answer("yes")]) as server,
        OpenAI("fake", base_url=server.url, api_key="none") as lm,
    ):
        token = before_send.set(check)
        try:
            answer = await lm.complete("?")
        finally:
            before_send.reset(token)
    assert (answer.text, answer.attempts) == ("yes", 2)
    assert asked == [0, 1]


async def test_what_is_not_to_be_sent_is_not_and_its_connection_is_closed() -> None:
    async def check() -> None:
        raise LookupError("not yours")

    async with (
        open_fake_provider([Answer("yes")]) as server,
        OpenAI("fake", base_url=server.url, api_key="none") as lm,
    ):
        token = before_send.set(check)
        with pytest.raises(LookupError, match="not yours"):
            await lm.complete("?")
        before_send.reset(token)
        assert server.requests == []
        assert (await lm.complete("?")).text == "yes"
