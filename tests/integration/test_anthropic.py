from collections.abc import AsyncGenerator

import pytest

from dspex.providers import (
    Anthropic,
    FilePart,
    ImagePart,
    InvalidRequestError,
    Message,
    MissingKeyError,
    OutputSchema,
    Request,
    TextDelta,
    TextPart,
    ToolCall,
    ToolCallDelta,
    ToolSpec,
    UnsupportedError,
    Usage,
)
from dspex.testing import Answer, Fail, FakeProvider, open_fake_provider

CALL = ToolCall("call_1", "search", '{"q": 1}')


@pytest.fixture
async def server() -> AsyncGenerator[FakeProvider]:
    async with open_fake_provider() as server:
        yield server


def client(server: FakeProvider) -> Anthropic:
    return Anthropic("claude-haiku-4-5", api_key="sk-ant", base_url=server.url)


async def test_complete_gives_text_and_usage(server: FakeProvider) -> None:
    server.plan([Answer("Hello!", usage=Usage(100, 20, 64))])
    async with client(server) as lm:
        response = await lm.complete(
            [
                Message.system("Be brief."),
                Message.system("Be kind."),
                Message.user("Hi"),
            ]
        )
    assert response.text == "Hello!"
    assert response.usage == Usage(100, 20, 64)
    assert response.id == "msg_1"
    assert response.choices[0].finish_reason == "stop"
    (request,) = server.requests
    assert request.path == "/v1/messages"
    assert request.headers["x-api-key"] == "sk-ant"
    assert request.headers["anthropic-version"] == "2023-06-01"
    assert "authorization" not in request.headers
    assert request.json == {
        "model": "claude-haiku-4-5",
        "max_tokens": 4096,
        "system": "Be brief.\n\nBe kind.",
        "messages": [{"role": "user", "content": [{"type": "text", "text": "Hi"}]}],
    }


async def test_every_part_of_a_request_reaches_the_wire(server: FakeProvider) -> None:
    request = Request(
        (
            Message.user(
                [
                    TextPart("What is this?"),
                    ImagePart(url="https://example.org/a.png"),
                    ImagePart(data="aGk=", media_type="image/png"),
                    FilePart("aGk=", "application/pdf", "a.pdf"),
                    FilePart("aGk=", "text/plain"),
                ]
            ),
            Message.assistant("", tool_calls=[CALL]),
            Message.tool("found", call_id="call_1"),
            Message.user("And now?"),
        ),
        output_schema=OutputSchema("answer", {"type": "object"}),
        tools=(ToolSpec("search", "Searches.", {"type": "object"}),),
        tool_choice="required",
        temperature=0.5,
        top_p=0.9,
        max_tokens=10,
        stop=("END",),
        extra={"metadata": {"user_id": "me"}},
    )
    async with client(server) as lm:
        await lm.complete(request)
    base64 = {"type": "base64", "data": "aGk="}
    assert server.requests[0].json == {
        "model": "claude-haiku-4-5",
        "max_tokens": 10,
        "messages": [
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "What is this?"},
                    {
                        "type": "image",
                        "source": {"type": "url", "url": "https://example.org/a.png"},
                    },
                    {
                        "type": "image",
                        "source": base64 | {"media_type": "image/png"},
                    },
                    {
                        "type": "document",
                        "source": base64 | {"media_type": "application/pdf"},
                        "title": "a.pdf",
                    },
                    {
                        "type": "document",
                        "source": {
                            "type": "text",
                            "media_type": "text/plain",
                            "data": "hi",
                        },
                    },
                ],
            },
            {
                "role": "assistant",
                "content": [
                    {
                        "type": "tool_use",
                        "id": "call_1",
                        "name": "search",
                        "input": {"q": 1},
                    }
                ],
            },
            {
                "role": "user",
                "content": [
                    {
                        "type": "tool_result",
                        "tool_use_id": "call_1",
                        "content": [{"type": "text", "text": "found"}],
                    },
                    {"type": "text", "text": "And now?"},
                ],
            },
        ],
        "output_config": {
            "format": {"type": "json_schema", "schema": {"type": "object"}}
        },
        "tools": [
            {
                "name": "search",
                "description": "Searches.",
                "input_schema": {"type": "object"},
            }
        ],
        "tool_choice": {"type": "any"},
        "temperature": 0.5,
        "top_p": 0.9,
        "stop_sequences": ["END"],
        "metadata": {"user_id": "me"},
    }


@pytest.mark.parametrize("streaming", [False, True], ids=["whole", "streamed"])
async def test_a_schema_can_be_asked_for_by_a_tool(
    server: FakeProvider, streaming: bool
) -> None:
    answer = ToolCall("call_9", "ticket", '{"category": "bug"}')
    server.plan([Answer("Let me see.", tool_calls=(answer,))])
    request = Request(
        (Message.user("x"),), output_schema=OutputSchema("ticket", {"type": "object"})
    )
    async with Anthropic(
        "m", api_key="k", base_url=server.url, structured_output="tool"
    ) as lm:
        if streaming:
            async with lm.stream(request) as stream:
                (choice,) = (await stream.read()).choices
        else:
            (choice,) = (await lm.complete(request)).choices
    assert choice.text == '{"category": "bug"}'
    assert choice.tool_calls == ()
    assert choice.finish_reason == "stop"
    body = server.requests[0].json
    assert body["tool_choice"] == {"type": "tool", "name": "ticket"}
    assert "output_config" not in body


async def test_tool_calls_refusals_and_limits_are_read(server: FakeProvider) -> None:
    server.plan(
        [
            Answer("Searching", tool_calls=(CALL,)),
            Answer("I will not.", finish_reason="refusal"),
            Answer("cut of", finish_reason="length"),
        ]
    )
    async with client(server) as lm:
        called, refused, cut = [(await lm.complete("x")).choices[0] for _ in range(3)]
    assert (called.text, called.tool_calls) == ("Searching", (CALL,))
    assert called.finish_reason == "tool_calls"
    assert (refused.text, refused.refusal) == ("", "I will not.")
    assert refused.finish_reason == "refusal"
    assert cut.finish_reason == "length"


async def test_a_stream_gives_deltas_then_the_whole(server: FakeProvider) -> None:
    server.plan([Answer("Hello there", tool_calls=(CALL,), usage=Usage(9, 7, 4))])
    async with client(server) as lm, lm.stream("x") as stream:
        deltas = [delta async for delta in stream]
    texts = [delta.text for delta in deltas if isinstance(delta, TextDelta)]
    assert texts == ["Hell", "o th", "ere"]
    calls = [delta for delta in deltas if isinstance(delta, ToolCallDelta)]
    assert (calls[0].id, calls[0].name) == ("call_1", "search")
    assert "".join(delta.arguments for delta in calls) == CALL.arguments
    assert stream.response.text == "Hello there"
    assert stream.response.tool_calls == (CALL,)
    assert stream.response.usage == Usage(9, 7, 4)
    assert server.requests[0].json["stream"] is True


@pytest.mark.parametrize(
    "request_",
    [
        Request((Message.user("x"),), n=2),
        Request((Message.user("x"),), seed=1),
        Request((Message.user("x"),), temperature=1.5),
        Request(
            (
                Message("system", (ImagePart(url="https://example.org/a.png"),)),
                Message.user("x"),
            )
        ),
        Request((Message.user([FilePart("aGk=", "text/csv")]),)),
    ],
)
async def test_what_the_api_cannot_say_is_never_sent(
    server: FakeProvider, request_: Request
) -> None:
    async with client(server) as lm:
        with pytest.raises(UnsupportedError):
            await lm.complete(request_)
    assert server.requests == []


@pytest.mark.parametrize(
    "messages",
    [
        [Message.system("only this")],
        [Message.user("")],
        [Message.user("hi"), Message.assistant(""), Message.user("hi")],
        [Message.user([FilePart("no base64", "text/plain")])],
        [Message.user("\ud800")],
        [Message.assistant("", tool_calls=[ToolCall("c", "t", "{not json")])],
    ],
)
async def test_what_cannot_be_written_is_never_sent(
    server: FakeProvider, messages: list[Message]
) -> None:
    async with client(server) as lm:
        with pytest.raises(InvalidRequestError):
            await lm.complete(messages)
    assert server.requests == []


async def test_an_error_of_the_api_is_read(server: FakeProvider) -> None:
    server.plan([Fail(529, message="Overloaded", headers={"request-id": "r"})] * 9)
    async with client(server) as lm:
        with pytest.raises(Exception, match="Overloaded") as caught:
            await lm.complete("x", timeout=0.1)
    assert "overloaded_error" in str(caught.value)


def test_the_key_comes_from_the_environment_only_when_none_is_given(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("ANTHROPIC_API_KEY", raising=False)
    with pytest.raises(MissingKeyError, match="ANTHROPIC_API_KEY"):
        Anthropic("m")
    monkeypatch.setenv("ANTHROPIC_API_KEY", "sk-ant")
    assert Anthropic("m").name == "anthropic:m"
