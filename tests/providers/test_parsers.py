"""What a server may send, and what it must never do to us."""

import itertools
import json

import hypothesis.strategies as st
import msgspec
import pytest
from hypothesis import given, settings
from pydantic import SecretStr

from dspex.providers import Delta, TextDelta, ToolCall, ToolCallDelta, Usage
from dspex.providers.anthropic_replies import MessageDecoder, decode_message
from dspex.providers.openai_replies import ChunkDecoder, decode_reply
from dspex.providers.prices import Price
from dspex.providers.replies import exhausted_for, status_error
from dspex.providers.sse import EventParser, EventTooLongError, ServerEvent
from dspex.providers.streams import Decoded, StreamDecoder, StreamFailedError
from dspex.testing.fake_bodies import answer_body, answer_events
from tests.providers.reply_checks import CHECKS, seeds
from tests.providers.reply_checks import PATHS as PATHS_BY_API

PATHS = ("/chat/completions", "/messages")


def decoder_of(path: str) -> StreamDecoder:
    return ChunkDecoder() if path == PATHS[0] else MessageDecoder(answer_tool=None)


def decode(path: str, body: bytes) -> Decoded:
    if path == PATHS[0]:
        return decode_reply(body)
    return decode_message(body, answer_tool=None)


def read_stream(path: str, stream: bytes, cuts: list[int]) -> tuple[str, Decoded, bool]:
    """Read a stream that arrives cut in pieces; give the text of its deltas too."""
    parser, decoder, text = EventParser(), decoder_of(path), ""
    edges = sorted({0, len(stream), *(cut % (len(stream) + 1) for cut in cuts)})
    for start, end in itertools.pairwise(edges):
        for event in parser.feed(stream[start:end]):
            for delta in decoder.feed(event):
                text += delta.text if isinstance(delta, TextDelta) else ""
    return text, decoder.result(), decoder.is_complete


@given(
    st.text(min_size=1, max_size=60),
    st.lists(
        st.tuples(
            st.text("abc", min_size=1),
            st.dictionaries(st.text(max_size=5), st.integers()),
        ),
        max_size=3,
    ),
    st.lists(st.integers(0, 10_000), max_size=12),
    st.sampled_from(PATHS),
    st.sampled_from(["\n", "\r\n", "\r"]),
)
def test_a_stream_says_the_same_as_the_whole_however_it_is_cut(
    text: str,
    calls: list[tuple[str, dict[str, int]]],
    cuts: list[int],
    path: str,
    newline: str,
) -> None:
    body = answer_body(
        path,
        {"model": "m"},
        text=text,
        tool_calls=tuple(
            ToolCall(f"call_{number}", name, json.dumps(arguments))
            for number, (name, arguments) in enumerate(calls)
        ),
        usage=Usage(20, 10, 5),
        finish_reason="tool_calls" if calls else "stop",
        refusal=None,
    )
    stream = b"".join(answer_events(path, body)).replace(b"\n", newline.encode())
    seen, streamed, complete = read_stream(path, stream + b": end\n", cuts)
    whole = decode(path, json.dumps(body).encode())
    assert seen == text
    assert complete
    assert as_data(streamed) == as_data(whole)


def as_data(decoded: Decoded) -> list[object]:
    (choice,) = decoded.choices
    arguments = [(c.id, c.name, json.loads(c.arguments)) for c in choice.tool_calls]
    return [choice.text, arguments, choice.finish_reason, decoded.usage, decoded.id]


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8) | st.floats(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [
                    "choices",
                    "message",
                    "delta",
                    "content",
                    "usage",
                    "type",
                    "index",
                    "tool_calls",
                    "function",
                    "error",
                    "text",
                    "id",
                    "input",
                    "name",
                    "content_block",
                    "stop_reason",
                ]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)
bodies = st.binary(max_size=200) | json_values.map(lambda v: json.dumps(v).encode())


@settings(max_examples=300)
@given(bodies, st.sampled_from(PATHS))
def test_a_body_is_read_or_refused(body: bytes, path: str) -> None:
    try:
        decoded = decode(path, body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return
    assert decoded.choices


@settings(max_examples=300)
@given(st.lists(bodies, max_size=4), st.sampled_from(PATHS))
def test_events_are_read_or_refused(events: list[bytes], path: str) -> None:
    decoder = decoder_of(path)
    try:
        for data in events:
            decoder.feed(ServerEvent("message", data))
    except (msgspec.DecodeError, UnicodeDecodeError, StreamFailedError):
        return
    decoder.result()


@given(st.binary(max_size=300))
def test_any_bytes_can_be_fed_to_the_event_parser(data: bytes) -> None:
    whole, bytewise = EventParser(), EventParser()
    at_once = whole.feed(data)
    one_by_one = [
        event for at in range(len(data)) for event in bytewise.feed(data[at : at + 1])
    ]
    assert one_by_one == at_once


@given(bodies, st.integers(100, 599), st.dictionaries(st.text(), st.text()))
def test_any_reply_with_an_error_status_gives_an_error(
    body: bytes, status: int, headers: dict[str, str]
) -> None:
    error = status_error(
        status, headers, body, provider="p", model="m", key=SecretStr("")
    )
    assert error.status == status
    assert str(error)


@pytest.mark.parametrize(
    ("stream", "events"),
    [
        (b"data: a\n\n", [("message", b"a")]),
        (b"data:a\ndata: b\n\n", [("message", b"a\nb")]),
        (b"event: x\ndata: a\n\ndata: b\n\n", [("x", b"a"), ("message", b"b")]),
        (b": comment\n\ndata: a\n\n", [("message", b"a")]),
        (b"id: 1\nretry: 3\ndata\n\n", [("message", b"")]),
        (b"\xef\xbb\xbfdata: a\r\n\r\n", [("message", b"a")]),
        (b"event: x\n\ndata: a\n\n", [("message", b"a")]),
        (b"data: a\n", []),
    ],
)
def test_events_are_cut_as_the_standard_says(
    stream: bytes, events: list[tuple[str, bytes]]
) -> None:
    parsed = EventParser().feed(stream)
    assert [(event.event, event.data) for event in parsed] == events


def feed_often(parser: EventParser, line: bytes) -> None:
    for _ in range(20_000):
        parser.feed(line)


@pytest.mark.parametrize("line", [b"data: ", b"data: x\n"])
def test_an_endless_event_is_an_error(
    line: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dspex.providers.sse.MAX_EVENT_BYTES", 10_000)
    with pytest.raises(EventTooLongError):
        feed_often(EventParser(), line)


@pytest.mark.parametrize(
    "event",
    [
        '{"choices": [{"index": %d, "delta": {"content": "x"}}]}',
        '{"choices": [{"delta": {"tool_calls": [{"index": %d}]}}]}',
    ],
)
@pytest.mark.parametrize("number", [-1, 1024, 2**62])
def test_a_stream_cannot_make_us_keep_absurd_numbers_of_parts(
    event: str, number: int
) -> None:
    with pytest.raises(msgspec.ValidationError):
        ChunkDecoder().feed(ServerEvent("message", (event % number).encode()))


def test_tool_calls_stream_their_arguments() -> None:
    call = ToolCall("call_1", "search", '{"q": "trio"}')
    for path in PATHS:
        body = answer_body(
            path,
            {},
            text="",
            tool_calls=(call,),
            usage=Usage(),
            finish_reason="tool_calls",
            refusal=None,
        )
        decoder, parser = decoder_of(path), EventParser()
        deltas = [
            delta
            for event in parser.feed(b"".join(answer_events(path, body)))
            for delta in decoder.feed(event)
        ]
        calls = [delta for delta in deltas if isinstance(delta, ToolCallDelta)]
        assert (calls[0].id, calls[0].name) == ("call_1", "search")
        assert "".join(delta.arguments for delta in calls) == call.arguments


@pytest.mark.parametrize(
    ("reset", "seconds"),
    [("1s", 1.0), ("6m0s", 360.0), ("20ms", 0.02), ("1h2m3.5s", 3723.5), ("7", 7.0)],
)
def test_the_reset_of_a_limit_is_read(reset: str, seconds: float) -> None:
    headers = {
        "x-ratelimit-remaining-tokens": "0",
        "x-ratelimit-reset-tokens": reset,
        "x-ratelimit-remaining-requests": "7",
        "x-ratelimit-reset-requests": "1000s",
    }
    assert exhausted_for(headers) == pytest.approx(seconds)


def test_the_reset_of_a_limit_may_be_a_date(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.time", lambda: 1_735_689_600.0)
    headers = {
        "anthropic-ratelimit-requests-remaining": "0",
        "anthropic-ratelimit-requests-reset": "2025-01-01T00:00:30Z",
    }
    assert exhausted_for(headers) == 30.0


def test_a_stream_of_some_choices_is_not_the_whole() -> None:
    decoder = ChunkDecoder(2)
    chunk = b'{"choices": [{"index": %d, "delta": {}, "finish_reason": "stop"}]}'
    decoder.feed(ServerEvent("message", chunk % 0))
    assert not decoder.is_complete
    decoder.feed(ServerEvent("message", chunk % 1))
    assert decoder.is_complete


def test_an_empty_refusal_is_none() -> None:
    body = b'{"choices": [{"message": {"content": "x", "refusal": ""}}]}'
    (choice,) = decode_reply(body).choices
    assert (choice.text, choice.refusal) == ("x", None)


@pytest.mark.parametrize(
    ("reason", "expected"),
    [
        ("stop", "stop"),
        ("length", "length"),
        ("tool_calls", "tool_calls"),
        ("function_call", "tool_calls"),
        ("content_filter", "content_filter"),
        ("something new", "other"),
    ],
)
def test_stop_reasons_of_openai(reason: str, expected: str) -> None:
    body = {"choices": [{"message": {"content": "x"}, "finish_reason": reason}]}
    (choice,) = decode_reply(json.dumps(body).encode()).choices
    assert choice.finish_reason == expected


@pytest.mark.parametrize(
    ("reason", "expected"),
    [
        ("end_turn", "stop"),
        ("stop_sequence", "stop"),
        ("max_tokens", "length"),
        ("model_context_window_exceeded", "length"),
        ("tool_use", "tool_calls"),
        ("refusal", "refusal"),
        ("pause_turn", "other"),
    ],
)
def test_stop_reasons_of_anthropic(reason: str, expected: str) -> None:
    body = {"content": [{"type": "text", "text": "x"}], "stop_reason": reason}
    decoded = decode_message(json.dumps(body).encode(), answer_tool=None)
    assert decoded.choices[0].finish_reason == expected


def test_tokens_written_to_the_cache_are_input() -> None:
    usage = (
        b'{"input_tokens": 5, "cache_read_input_tokens": 100,'
        b' "cache_creation_input_tokens": 30, "output_tokens": 7}'
    )
    body = b'{"content": [], "usage": %b}' % usage
    assert decode_message(body, answer_tool=None).usage == Usage(135, 7, 100)


def test_what_the_server_does_by_itself_is_no_part_of_the_answer() -> None:
    """Thinking, and the calls of its own tools."""
    decoder = MessageDecoder(answer_tool=None)
    deltas: list[Delta] = []
    for index, kind, delta in (
        (0, "thinking", {"type": "thinking_delta", "thinking": "hm"}),
        (1, "server_tool_use", {"type": "input_json_delta", "partial_json": "{}"}),
        (2, "text", {"type": "text_delta", "text": "So."}),
    ):
        block = {"type": kind, "id": "i", "name": "web_search"}
        for event in (
            {"type": "content_block_start", "index": index, "content_block": block},
            {"type": "content_block_delta", "index": index, "delta": delta},
        ):
            sent = ServerEvent("message", json.dumps(event).encode())
            deltas.extend(decoder.feed(sent))
    assert deltas == [TextDelta("So.")]
    (choice,) = decoder.result().choices
    assert (choice.text, choice.tool_calls) == ("So.", ())


@st.composite
def spoilt_replies(draw: st.DrawFn) -> tuple[str, str, bytes]:
    """Give a good reply with some bytes taken out, doubled or changed."""
    api = draw(st.sampled_from(sorted(PATHS_BY_API)))
    kind = draw(st.sampled_from(sorted(CHECKS)))
    data = draw(st.sampled_from(seeds(api, kind)))
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(data)))
        end = start + draw(st.integers(0, 40))
        other = draw(
            st.sampled_from([b"", data[start:end] * 2, b"null", b"\n\n", b"-1"])
            | st.binary(max_size=4)
        )
        data = data[:start] + other + data[end:]
    return api, kind, data


@settings(max_examples=300)
@given(spoilt_replies())
def test_a_spoilt_reply_is_read_or_refused(reply: tuple[str, str, bytes]) -> None:
    """What `make fuzz` looks for at length."""
    api, kind, data = reply
    CHECKS[kind](api, data)


@pytest.mark.parametrize("count", [b"-5", b"1e300", b"1.5", b'"5"', b"1" + b"0" * 30])
@pytest.mark.parametrize("name", [b"prompt_tokens", b"completion_tokens"])
def test_a_count_of_tokens_that_is_none_is_no_answer(name: bytes, count: bytes) -> None:
    usage = b'{"%b": %b}' % (name, count)
    body = b'{"choices": [{"message": {"content": "x"}}], "usage": %b}' % usage
    with pytest.raises(msgspec.ValidationError, match=r"\$\.usage"):
        decode_reply(body)
    with pytest.raises(msgspec.ValidationError, match=r"\$\.usage"):
        ChunkDecoder().feed(ServerEvent("message", b'{"usage": %b}' % usage))
    ours = usage.replace(b"prompt", b"input").replace(b"completion", b"output")
    with pytest.raises(msgspec.ValidationError, match=r"\$\.usage"):
        decode_message(b'{"content": [], "usage": %b}' % ours, answer_tool=None)


def test_cached_tokens_are_part_of_the_input_whatever_a_server_says() -> None:
    usage = b'{"prompt_tokens": 5, "prompt_tokens_details": {"cached_tokens": 100}}'
    body = b'{"choices": [{"message": {"content": "x"}}], "usage": %b}' % usage
    found = decode_reply(body).usage
    assert found == Usage(5, 0, 5)
    assert Price(10.0, 10.0, 1.0).cost(found) > 0
