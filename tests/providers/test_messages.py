import json

import pytest

from dspex.providers import (
    Choice,
    FilePart,
    ImagePart,
    InvalidRequestError,
    Message,
    OutputSchema,
    Request,
    Response,
    TextPart,
    ToolCall,
    ToolSpec,
    Usage,
)

CALL = ToolCall("call_1", "search", '{"q": "trio"}')
FULL = Request(
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
        Message.assistant("", tool_calls=[CALL]),
        Message.tool("found", call_id="call_1"),
    ),
    output_schema=OutputSchema("answer", {"type": "object", "properties": {}}),
    tools=(ToolSpec("search", "Searches.", {"type": "object"}),),
    tool_choice="search",
    temperature=0.5,
    top_p=0.9,
    max_tokens=10,
    stop=("END",),
    seed=7,
    n=2,
    extra={"user": "me", "logit_bias": {"1": 2}},
)


def test_request_survives_json_both_ways() -> None:
    assert Request.from_json(json.loads(json.dumps(FULL.to_json()))) == FULL


def test_response_survives_json_both_ways() -> None:
    response = Response(
        (Choice("hi"), Choice("", (CALL,), "tool_calls", None)),
        Usage(10, 5, 3, 2),
        "m",
        "id-1",
        0.25,
    )
    assert Response.from_json(json.loads(json.dumps(response.to_json()))) == response


def test_missing_keys_take_their_defaults() -> None:
    read = Request.from_json({"messages": [{"role": "user", "content": "hi"}]})
    assert read == Request.of("hi")


@pytest.mark.parametrize(
    ("data", "place"),
    [
        ({}, "Request.messages"),
        ({"messages": [{"role": "boss", "content": "x"}]}, "Request.messages.0.role"),
        ({"messages": [{"role": "user", "content": 3}]}, "Request.messages.0.content"),
        (
            {"messages": [{"role": "user", "content": "x"}], "topp": 1},
            "Request.topp",
        ),
        ("text", "Request"),
    ],
)
def test_bad_json_is_an_error_that_names_the_place(data: object, place: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        Request.from_json(data)
    assert caught.value.field.startswith(place)


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"messages": ()}, "messages"),
        ({"n": 0}, "n"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"temperature": -0.1}, "temperature"),
        ({"temperature": 2.1}, "temperature"),
        ({"top_p": 0.0}, "top_p"),
        ({"tool_choice": "nothing"}, "tool_choice"),
        ({"tool_choice": "required"}, "tool_choice"),
    ],
)
def test_a_value_no_provider_accepts_is_refused(
    changes: dict[str, object], field: str
) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        Request.from_json(Request.of("hi").to_json() | changes)
    assert caught.value.field == field


def test_a_tool_message_must_name_its_call() -> None:
    with pytest.raises(InvalidRequestError, match="tool_call_id"):
        Message("tool", "result")


@pytest.mark.parametrize("data", [None, "aGk="])
def test_an_image_needs_a_source(data: str | None) -> None:
    with pytest.raises(InvalidRequestError, match="image"):
        ImagePart(data=data)


def test_equal_requests_have_equal_fingerprints() -> None:
    again = Request.from_json(json.loads(json.dumps(FULL.to_json())))
    assert again.fingerprint() == FULL.fingerprint()


def test_order_of_extra_and_kind_of_number_do_not_change_the_fingerprint() -> None:
    messages = (Message.user("hi"),)
    one = Request(messages, temperature=1, extra={"a": 1, "b": 2})
    other = Request(messages, temperature=1.0, extra={"b": 2, "a": 1})
    assert one.fingerprint() == other.fingerprint()


@pytest.mark.parametrize(
    "changes",
    [
        {"messages": [{"role": "user", "content": "ho"}]},
        {"temperature": 0.1},
        {"top_p": 0.1},
        {"max_tokens": 5},
        {"stop": ["x"]},
        {"seed": 1},
        {"n": 2},
        {"extra": {"a": 1}},
        {"output_schema": {"name": "a", "schema": {"a": 1, "b": 2}}},
        {"output_schema": {"name": "a", "schema": {"b": 2, "a": 1}}},
        {"tools": [{"name": "t", "description": "", "parameters": {"a": 1}}]},
        {"messages": [{"role": "system", "content": "hi"}]},
        {"messages": [{"role": "tool", "content": "hi", "tool_call_id": "c"}]},
        {"messages": [{"role": "user", "content": "hi"}] * 2},
    ],
)
def test_whatever_changes_the_answer_changes_the_fingerprint(
    changes: dict[str, object],
) -> None:
    base = Request.of("hi")
    other = Request.from_json(base.to_json() | changes)
    assert other.fingerprint() != base.fingerprint()


LEAVES: list[tuple[tuple[str | int, ...], object]] = [
    (("messages", 1, "content", 0, "text"), "other"),
    (("messages", 1, "content", 1, "url"), "other"),
    (("messages", 1, "content", 1, "detail"), None),
    (("messages", 1, "content", 2, "data"), "aGo="),
    (("messages", 1, "content", 2, "media_type"), "image/webp"),
    (("messages", 1, "content", 3, "data"), "aGo="),
    (("messages", 1, "content", 3, "media_type"), "text/plain"),
    (("messages", 1, "content", 3, "filename"), None),
    (("messages", 2, "tool_calls", 0, "id"), "other"),
    (("messages", 2, "tool_calls", 0, "name"), "other"),
    (("messages", 2, "tool_calls", 0, "arguments"), "{}"),
    (("messages", 2, "tool_calls"), []),
    (("messages", 3, "tool_call_id"), "other"),
    (("output_schema", "name"), "other"),
    (("output_schema", "strict"), False),
    (("tools", 0, "description"), "other"),
    (("tool_choice",), "auto"),
    (("extra", "logit_bias", "1"), 3),
]


@pytest.mark.parametrize(("path", "value"), LEAVES)
def test_every_leaf_of_a_request_counts(
    path: tuple[str | int, ...], value: object
) -> None:
    data = json.loads(json.dumps(FULL.to_json()))
    place = data
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    assert Request.from_json(data).fingerprint() != FULL.fingerprint()


@pytest.mark.parametrize(
    "request_",
    [Request.of("\ud800"), Request((Message.user("hi"),), extra={"a": object()})],
)
def test_what_json_cannot_say_is_an_error(request_: Request) -> None:
    with pytest.raises(InvalidRequestError, match="cannot be written as JSON"):
        request_.fingerprint()


def test_the_order_of_schema_fields_counts() -> None:
    one, other = (
        Request((Message.user("hi"),), output_schema=OutputSchema("a", schema))
        for schema in ({"a": 1, "b": 2}, {"b": 2, "a": 1})
    )
    assert one.fingerprint() != other.fingerprint()


def test_usage_adds_up() -> None:
    total = Usage(1, 2, 3, 4) + Usage(10, 20, 30, 40)
    assert total == Usage(11, 22, 33, 44)
    assert total.total_tokens == 33


def test_text_of_parts_is_joined() -> None:
    message = Message.user([TextPart("a"), ImagePart(url="u"), TextPart("b")])
    assert message.text == "ab"
