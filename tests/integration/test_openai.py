import traceback
from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest
import structlog
import trio

from dspex.providers import (
    AuthenticationError,
    BadRequestError,
    ConfigurationError,
    ConnectionFailedError,
    ContextLengthError,
    FilePart,
    ImagePart,
    MalformedResponseError,
    Message,
    MissingKeyError,
    NotFoundError,
    OpenAI,
    OutputSchema,
    PartialResponseError,
    PermissionDeniedError,
    ProviderError,
    ProviderTimeoutError,
    RateLimitError,
    Request,
    RetryPolicy,
    ServerError,
    TextDelta,
    TextPart,
    ToolCall,
    ToolCallDelta,
    ToolSpec,
    UnsupportedError,
    Usage,
)
from dspex.providers.lm import Capabilities
from dspex.testing import (
    Action,
    Answer,
    Fail,
    FakeProvider,
    Hang,
    ProviderRequest,
    Raw,
    Reset,
    Truncate,
    open_fake_provider,
)
from dspex.testing.fake_actions import Exchange

KEY = "sk-test-0123456789"
ESCAPED = "".join(f"\\u{ord(character):04x}" for character in KEY).encode()
QUICK = RetryPolicy(attempts=3, first_wait=0.01, longest_wait=0.02)


@pytest.fixture
async def server() -> AsyncIterator[FakeProvider]:
    async with open_fake_provider() as server:
        yield server


def client(server: FakeProvider, *, timeout: float = 5.0) -> OpenAI:
    return OpenAI(
        "gpt-4o-mini",
        api_key=KEY,
        base_url=server.url,
        retries=QUICK,
        timeout=timeout,
    )


async def test_complete_gives_text_and_usage(server: FakeProvider) -> None:
    server.plan([Answer("Hello!", usage=Usage(100, 20, 64, 8))])
    async with client(server) as lm:
        response = await lm.complete("Say hello")
    assert response.text == "Hello!"
    assert response.usage == Usage(100, 20, 64, 8)
    assert response.model == "gpt-4o-mini"
    assert response.id == "chatcmpl-1"
    assert 0 < response.seconds < 5
    (request,) = server.requests
    assert request.path == "/v1/chat/completions"
    assert request.headers["authorization"] == f"Bearer {KEY}"
    assert request.json == {
        "model": "gpt-4o-mini",
        "messages": [{"role": "user", "content": "Say hello"}],
    }


async def test_every_part_of_a_request_reaches_the_wire(server: FakeProvider) -> None:
    call = ToolCall("call_1", "search", '{"q": 1}')
    request = Request(
        (
            Message.system("Be brief."),
            Message.user(
                [
                    TextPart("What is this?"),
                    ImagePart(url="https://example.org/a.png", detail="low"),
                    ImagePart(data="aGk=", media_type="image/png"),
                    FilePart("aGk=", "application/pdf", "a.pdf"),
                ]
            ),
            Message.assistant("", tool_calls=[call]),
            Message.tool("found", call_id="call_1"),
        ),
        output_schema=OutputSchema("answer", {"type": "object"}),
        tools=(ToolSpec("search", "Searches.", {"type": "object"}),),
        tool_choice="search",
        temperature=0.5,
        top_p=0.9,
        max_tokens=10,
        stop=("END",),
        seed=7,
        n=2,
        extra={"user": "me"},
    )
    async with client(server) as lm:
        response = await lm.complete(request)
    assert len(response.choices) == 2
    assert server.requests[0].json == {
        "model": "gpt-4o-mini",
        "messages": [
            {"role": "system", "content": "Be brief."},
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "What is this?"},
                    {
                        "type": "image_url",
                        "image_url": {
                            "url": "https://example.org/a.png",
                            "detail": "low",
                        },
                    },
                    {
                        "type": "image_url",
                        "image_url": {"url": "data:image/png;base64,aGk="},
                    },
                    {
                        "type": "file",
                        "file": {
                            "file_data": "data:application/pdf;base64,aGk=",
                            "filename": "a.pdf",
                        },
                    },
                ],
            },
            {
                "role": "assistant",
                "content": None,
                "tool_calls": [
                    {
                        "id": "call_1",
                        "type": "function",
                        "function": {"name": "search", "arguments": '{"q": 1}'},
                    }
                ],
            },
            {"role": "tool", "content": "found", "tool_call_id": "call_1"},
        ],
        "response_format": {
            "type": "json_schema",
            "json_schema": {
                "name": "answer",
                "schema": {"type": "object"},
                "strict": True,
            },
        },
        "tools": [
            {
                "type": "function",
                "function": {
                    "name": "search",
                    "description": "Searches.",
                    "parameters": {"type": "object"},
                },
            }
        ],
        "tool_choice": {"type": "function", "function": {"name": "search"}},
        "temperature": 0.5,
        "top_p": 0.9,
        "max_tokens": 10,
        "stop": ["END"],
        "seed": 7,
        "n": 2,
        "user": "me",
    }


async def test_tool_calls_and_refusals_are_read(server: FakeProvider) -> None:
    call = ToolCall("call_1", "search", '{"q": "trio"}')
    server.plan([Answer("", tool_calls=(call,)), Answer("", refusal="No.")])
    async with client(server) as lm:
        called, refused = [(await lm.complete("x")).choices[0] for _ in range(2)]
    assert (called.tool_calls, called.finish_reason) == ((call,), "tool_calls")
    assert (refused.refusal, refused.finish_reason) == ("No.", "refusal")


async def test_a_stream_gives_deltas_then_the_whole(server: FakeProvider) -> None:
    call = ToolCall("call_1", "search", '{"q": 1}')
    server.plan([Answer("Hello there", tool_calls=(call,), usage=Usage(9, 7, 4, 2))])
    async with client(server) as lm, lm.stream("x") as stream:
        deltas = [delta async for delta in stream]
    texts = [delta.text for delta in deltas if isinstance(delta, TextDelta)]
    assert texts == ["Hell", "o th", "ere"]
    calls = [delta for delta in deltas if isinstance(delta, ToolCallDelta)]
    assert (calls[0].id, calls[0].name) == ("call_1", "search")
    assert "".join(delta.arguments for delta in calls) == call.arguments
    assert stream.response.text == "Hello there"
    assert stream.response.tool_calls == (call,)
    assert stream.response.usage == Usage(9, 7, 4, 2)
    body = server.requests[0].json
    assert (body["stream"], body["stream_options"]) == (True, {"include_usage": True})


async def test_choices_and_refusals_stream_too(server: FakeProvider) -> None:
    server.plan([Answer("Hello"), Answer("", refusal="No.")])
    async with client(server) as lm:
        async with lm.stream(Request((Message.user("x"),), n=3)) as stream:
            response = await stream.read()
        assert [choice.text for choice in response.choices] == ["Hello"] * 3
        async with lm.stream("x") as stream:
            with pytest.raises(RuntimeError, match="every delta"):
                _ = stream.response
            (choice,) = (await stream.read()).choices
    assert (choice.refusal, choice.finish_reason) == ("No.", "refusal")


async def test_a_stream_ends_at_the_deadline(server: FakeProvider) -> None:
    server.plan([Answer("a long answer", pace=0.2)])
    async with client(server) as lm:
        with pytest.raises(PartialResponseError, match="deadline") as caught:
            async with lm.stream("x", timeout=0.5) as stream:
                await stream.read()
    assert "a long answer".startswith(caught.value.partial)
    with trio.fail_after(2):
        while server.open_connections:
            await trio.sleep(0.005)


@pytest.mark.parametrize(
    ("failure", "kind", "attempts"),
    [
        (Fail(400), BadRequestError, 1),
        (Fail(400, code="context_length_exceeded"), ContextLengthError, 1),
        (Fail(401), AuthenticationError, 1),
        (Fail(403), PermissionDeniedError, 1),
        (Fail(404), NotFoundError, 1),
        (Fail(422), BadRequestError, 1),
        (Fail(429, code="insufficient_quota"), RateLimitError, 1),
        (Fail(408), ServerError, 3),
        (Fail(409), ServerError, 3),
        (Fail(429), RateLimitError, 3),
        (Fail(500), ServerError, 3),
        (Fail(503), ServerError, 3),
        (Raw(b"<html>busy</html>", status=502), ServerError, 3),
        (Raw(b"<html>hello</html>"), MalformedResponseError, 3),
        (Raw(b"[1, 2]"), MalformedResponseError, 3),
        (Raw(b'{"choices": []}'), MalformedResponseError, 3),
        (Raw(b'{"choices": [{"message": 3}]}'), MalformedResponseError, 3),
        (Raw(b"\xff\xfe"), MalformedResponseError, 3),
        (
            Raw(b"no gzip", headers={"content-encoding": "gzip"}),
            MalformedResponseError,
            3,
        ),
        (Reset(), ConnectionFailedError, 3),
        (Reset(after=200), ConnectionFailedError, 3),
        (Truncate(), ConnectionFailedError, 3),
    ],
)
async def test_a_failure_that_lasts_ends_in_its_typed_error(
    server: FakeProvider, failure: Action, kind: type[ProviderError], attempts: int
) -> None:
    server.plan(lambda _: failure)
    async with client(server) as lm:
        with pytest.raises(kind) as caught:
            await lm.complete("x")
        assert len(server.requests) == attempts
        assert len(caught.value.attempts) == attempts
        assert caught.value.model == "gpt-4o-mini"
        assert caught.value.what_to_do
        server.plan([])
        assert (await lm.complete("x")).text == "ok"


@pytest.mark.parametrize(
    "failure",
    [Fail(500), Fail(429), Raw(b"rubbish"), Reset(), Reset(after=200), Truncate()],
)
async def test_a_failure_that_passes_is_not_seen(
    server: FakeProvider, failure: Action
) -> None:
    server.plan([failure, failure])
    async with client(server) as lm:
        assert (await lm.complete("x")).text == "ok"
    assert len(server.requests) == 3


async def test_nobody_listens() -> None:
    async with open_fake_provider() as server:
        pass
    async with client(server) as lm:
        with pytest.raises(ConnectionFailedError, match="could not connect") as caught:
            await lm.complete("x")
    assert server.url in str(caught.value)
    assert len(caught.value.attempts) == 3


async def test_a_silent_server_ends_at_the_deadline(server: FakeProvider) -> None:
    server.plan([Hang()])
    async with client(server) as lm:
        with pytest.raises(ProviderTimeoutError, match=r"no answer within 0\.2 s"):
            await lm.complete("x", timeout=0.2)
        assert (await lm.complete("x")).text == "ok"
    with trio.fail_after(2):
        while server.disconnects == 0:
            await trio.sleep(0.01)


async def test_a_retry_after_beyond_the_deadline_fails_at_once(
    server: FakeProvider,
) -> None:
    server.plan([Fail(429, headers={"retry-after": "60"})])
    async with client(server) as lm:
        with trio.fail_after(1), pytest.raises(RateLimitError) as caught:
            await lm.complete("x", timeout=30)
    assert caught.value.retry_after == 60
    assert caught.value.request_id == "req_fake"


async def test_a_retry_after_is_waited_for(server: FakeProvider) -> None:
    server.plan([Fail(429, headers={"retry-after-ms": "150"})])
    async with client(server) as lm:
        response = await lm.complete("x")
    assert response.seconds >= 0.15


async def test_a_cancelled_call_leaves_a_usable_client(server: FakeProvider) -> None:
    server.plan([Hang()])
    async with client(server) as lm:
        with trio.move_on_after(0.05) as scope:
            await lm.complete("x")
        assert scope.cancelled_caught
        assert (await lm.complete("x")).text == "ok"


async def test_it_works_without_async_with(server: FakeProvider) -> None:
    lm = client(server)
    assert (await lm.complete("x")).text == "ok"
    await lm.aclose()
    assert (await lm.complete("x")).text == "ok"
    await lm.aclose()


async def test_what_the_model_cannot_do_is_never_sent(server: FakeProvider) -> None:
    lm = OpenAI(
        "small", api_key="", base_url=server.url, capabilities=Capabilities(tools=False)
    )
    request = Request((Message.user("x"),), tools=(ToolSpec("t", "", {}),))
    with pytest.raises(UnsupportedError, match=r"openai 'small': .* has tools"):
        await lm.complete(request)
    assert server.requests == []


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
