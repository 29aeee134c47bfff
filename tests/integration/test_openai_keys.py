"""OpenAI against a real HTTP server: its key and its address, which no error shows."""

import traceback
from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest
import structlog

from dspex.providers import ConfigurationError, MissingKeyError, OpenAI, ProviderError
from dspex.testing import (
    Action,
    Fail,
    FakeProvider,
    Hang,
    ProviderRequest,
    Raw,
    Reset,
    open_fake_provider,
)
from dspex.testing.fake_actions import Exchange
from tests.integration.openai_client import KEY, client

ESCAPED = "".join(f"\\u{ord(character):04x}" for character in KEY).encode()


@pytest.fixture
async def server() -> AsyncIterator[FakeProvider]:
    async with open_fake_provider() as server:
        yield server


async def test_an_empty_key_sends_no_authorization(server: FakeProvider) -> None:
    async with OpenAI("small", api_key="", base_url=server.url) as lm:
        await lm.complete("x")
    assert "authorization" not in server.requests[0].headers


def test_the_key_comes_from_the_environment_only_when_none_is_given(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with pytest.raises(MissingKeyError, match="OPENAI_API_KEY"):
        OpenAI("gpt-4o-mini")
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    assert OpenAI("gpt-4o-mini").name == "openai:gpt-4o-mini"


@pytest.mark.parametrize(
    "url", ["localhost:8000", "ftp://x", "http://", "", "http://["]
)
def test_a_bad_base_url_is_refused(url: str) -> None:
    with pytest.raises(ConfigurationError, match="base_url"):
        OpenAI("m", api_key="", base_url=url)


@pytest.mark.parametrize(
    "url",
    ["https://me:sk-1@host/v1", "https://host/v1?key=sk-1", "https://host/v1#sk-1"],
)
def test_a_base_url_with_a_secret_is_refused_without_showing_it(url: str) -> None:
    with pytest.raises(ConfigurationError, match="api_key=") as caught:
        OpenAI("m", api_key="", base_url=url)
    assert "sk-1" not in "".join(traceback.format_exception(caught.value))


def test_a_key_with_a_line_break_inside_is_refused_without_showing_it() -> None:
    with pytest.raises(ConfigurationError) as caught:
        OpenAI("m", api_key="sk-secret\nsk-other")
    assert "sk-" not in str(caught.value)


async def failure_of(lm: OpenAI, *, stream: bool) -> ProviderError:
    # Of its own, so that no local variable of the test is in the traceback.
    with pytest.raises(ProviderError) as caught:
        await (collect(lm) if stream else lm.complete("x"))
    return caught.value


async def collect(lm: OpenAI) -> None:
    async with lm.stream("x") as stream:
        async for _ in stream:
            pass


@dataclass(frozen=True)
class RawHead:
    """Any bytes for a reply, and a close."""

    data: bytes

    async def run(self, request: ProviderRequest, exchange: Exchange) -> bool:
        """Send them."""
        await exchange.send(self.data)
        return False


def event(data: bytes) -> Raw:
    """Give a stream of one event."""
    return Raw(
        b"data: " + data + b"\n\n", headers={"content-type": "text/event-stream"}
    )


@pytest.mark.parametrize(
    "failure",
    [
        Fail(401, message=f"Incorrect API key provided: {KEY}", code=KEY),
        Raw(f"not json {KEY}".encode()),
        Raw(f"<p>{KEY}</p>".encode(), status=500),
        Raw(b'{"error": "' + ESCAPED + b'"}', status=401),
        Fail(401, headers={"x-request-id": KEY, "retry-after": KEY, KEY: KEY}),
        Fail(500, headers={"request-id": f"req {KEY}"}),
        Raw(b"rubbish", headers={"x-request-id": KEY}),
        Raw(b"rubbish", headers={"content-encoding": KEY}),
        RawHead(f"HTTP/1.1 {KEY} {KEY}\r\n\r\n".encode()),
        RawHead(f"HTTP/1.1 200 OK\r\n{KEY}\r\n\r\n".encode()),
        RawHead(f"HTTP/1.1 401 {KEY}\r\ncontent-length: 0\r\n\r\n".encode()),
        Reset(),
        Hang(),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
async def test_the_key_is_never_shown(
    server: FakeProvider, failure: Action, stream: bool
) -> None:
    await check_that_the_key_is_hidden(server, failure, stream=stream)


@pytest.mark.parametrize(
    "failure",
    [
        event(
            b'{"error": {"message": "' + ESCAPED + b'", "code": "' + ESCAPED + b'"}}'
        ),
        event(f'{{"error": "{KEY}"}}'.encode()),
        event(f'{{"choices": "{KEY}"}}'.encode()),
    ],
)
async def test_the_key_is_never_shown_by_an_event(
    server: FakeProvider, failure: Action
) -> None:
    await check_that_the_key_is_hidden(server, failure, stream=True)


async def check_that_the_key_is_hidden(
    server: FakeProvider, failure: Action, *, stream: bool
) -> None:
    server.plan(lambda _: failure)
    async with client(server, timeout=0.5) as lm:
        error = await failure_of(lm, stream=stream)
        shown = [repr(lm), str(lm.__dict__), repr(error), str(error)]
    shown.extend(traceback.format_exception(error))
    shown.append(repr(error.attempts) + repr(vars(error)))
    tree = structlog.tracebacks.ExceptionDictTransformer(show_locals=True)
    shown.append(repr(tree((type(error), error, error.__traceback__))))
    assert KEY not in "".join(shown)
