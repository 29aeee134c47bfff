"""What must hold for any bytes that a server may send; for hypothesis and atheris."""

import json
from collections.abc import Callable
from typing import Final

import msgspec

from dspex.providers import ToolCall, Usage
from dspex.providers.anthropic_replies import MessageDecoder, decode_message
from dspex.providers.openai_replies import ChunkDecoder, decode_reply
from dspex.providers.sse import EventParser, EventTooLongError
from dspex.providers.streams import Decoded, Delta, StreamDecoder, StreamFailedError
from dspex.testing.fake_bodies import answer_body, answer_events

PATHS: Final = {"openai": "/chat/completions", "anthropic": "/messages"}
REFUSALS: Final = (msgspec.DecodeError, UnicodeDecodeError)


def check_body(api: str, data: bytes) -> None:
    """Read a body: it is an answer, or it is refused by the promised errors."""
    try:
        if api == "openai":
            decoded = decode_reply(data)
        else:
            decoded = decode_message(data, answer_tool="answer")
    except REFUSALS:
        return
    assert decoded.choices
    check_answer(decoded)


def check_stream(api: str, data: bytes) -> None:
    """Read a stream: whole and cut in two it says the same, answer or refusal."""
    cut = data[0] if data else 0
    assert read_stream(api, [data]) == read_stream(api, [data[:cut], data[cut:]])


CHECKS: Final[dict[str, Callable[[str, bytes], None]]] = {
    "body": check_body,
    "stream": check_stream,
}


def read_stream(api: str, chunks: list[bytes]) -> tuple[list[Delta], object, bool]:
    """Give the deltas up to the end or the refusal, and what came of them."""
    decoder: StreamDecoder = (
        ChunkDecoder(2) if api == "openai" else MessageDecoder(answer_tool="answer")
    )
    parser, deltas, refused = EventParser(), list[Delta](), False
    try:
        for chunk in chunks:
            for event in parser.feed(chunk):
                deltas.extend(decoder.feed(event))
    except (*REFUSALS, StreamFailedError, EventTooLongError):
        refused = True
    decoded = decoder.result()
    check_answer(decoded)
    assert not decoder.is_complete or refused or decoded.choices or api == "openai"
    return deltas, decoded, refused


def check_answer(decoded: Decoded) -> None:
    """Pass an answer that can be stored, and whose sums make sense."""
    for choice in decoded.choices:
        msgspec.json.encode(choice.to_json())
    msgspec.json.encode(decoded.usage.to_json())


def seeds(api: str, kind: str) -> list[bytes]:
    """Give good replies to start from."""
    call = ToolCall("call_1", "search", '{"q": [1, "two"]}')
    made: list[bytes] = []
    for text, calls, refusal in (
        ("Hello \N{SNOWMAN}", (), None),
        ("", (call, call), None),
        ("", (), "I will not."),
    ):
        body = answer_body(
            PATHS[api],
            {"n": 2},
            text=text,
            tool_calls=calls,
            usage=Usage(20, 10, 5, 3),
            finish_reason="stop",
            refusal=refusal,
        )
        made.append(
            json.dumps(body).encode()
            if kind == "body"
            else b"".join(answer_events(PATHS[api], body))
        )
    if kind == "stream":
        made.append(b'event: error\ndata: {"type": "error", "error": {}}\n\n')
    return made
