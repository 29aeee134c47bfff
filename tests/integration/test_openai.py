"""OpenAI against a real HTTP server: requests, answers, streams."""

from collections.abc import AsyncIterator

import pytest
import trio

from dspex.providers import (
    FilePart,
    ImagePart,
    Message,
    OpenAI,
    OutputSchema,
    PartialResponseError,
    Request,
    TextDelta,
    TextPart,
    ToolCall,
    ToolCallDelta,
    ToolSpec,
    UnsupportedError,
    Usage,
)
from dspex.providers.lm import Capabilities
from dspex.testing import Answer, FakeProvider, open_fake_provider
from tests.integration.openai_client import KEY, client


@pytest.fixture
async def server() -> AsyncIterator[FakeProvider]:
    async with open_fake_provider() as server:
        yield server


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
        with pytest.raises(PartialResponseError) as caught:
            async with lm.stream("x", timeout=0.5) as stream:
                await stream.read()
    assert "it had not ended within 0.5 s: give it a longer timeout" in str(
        caught.value
    )
    assert "a long answer".startswith(caught.value.partial)
    with trio.fail_after(2):
        while server.open_connections:
            await trio.sleep(0.005)


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
