"""What the fake provider says, in the words of each API."""

import json
from collections.abc import Iterator, Mapping
from typing import Any, Final

from dspex.providers import ToolCall, Usage

JSONObject = dict[str, Any]  # Any: JSON

_ANTHROPIC_REASONS: Final = {
    "stop": "end_turn",
    "length": "max_tokens",
    "tool_calls": "tool_use",
}
_ANTHROPIC_ERRORS: Final = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
    529: "overloaded_error",
}


def is_anthropic(path: str) -> bool:
    """Whether the path is that of the messages API."""
    return path.endswith("/messages")


def answer_body(
    path: str,
    asked: Mapping[str, Any],  # Any: JSON
    *,
    text: str,
    tool_calls: tuple[ToolCall, ...],
    usage: Usage,
    finish_reason: str,
    refusal: str | None,
) -> JSONObject:
    """Give a whole answer."""
    model = asked.get("model", "fake")
    if is_anthropic(path):
        content: list[JSONObject] = [{"type": "text", "text": text}] if text else []
        content += [_tool_use(call) for call in tool_calls]
        return {
            "id": "msg_1",
            "type": "message",
            "role": "assistant",
            "model": model,
            "content": content,
            "stop_reason": _ANTHROPIC_REASONS.get(finish_reason, finish_reason),
            "stop_sequence": None,
            "usage": _anthropic_usage(usage),
        }
    message: JSONObject = {"role": "assistant", "content": text, "refusal": refusal}
    if tool_calls:
        message["tool_calls"] = [_function_call(call) for call in tool_calls]
    choice = {"message": message, "finish_reason": finish_reason}
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1,
        "model": model,
        "choices": [choice | {"index": i} for i in range(asked.get("n", 1))],
        "usage": _openai_usage(usage),
    }


def answer_events(path: str, body: JSONObject) -> Iterator[bytes]:
    """Give a whole answer as the server-sent events of a stream."""
    if is_anthropic(path):
        yield from _anthropic_events(body)
    else:
        yield from _openai_events(body)


def error_body(path: str, status: int, message: str, code: str | None) -> JSONObject:
    """Give an error."""
    if is_anthropic(path):
        kind = code or _ANTHROPIC_ERRORS.get(status, "api_error")
        return {"type": "error", "error": {"type": kind, "message": message}}
    return {"error": {"message": message, "type": "error", "code": code}}


def error_event(path: str, status: int, message: str, code: str | None) -> bytes:
    """Give an error as an event inside a stream."""
    body = error_body(path, status, message, code)
    return _event(body, "error" if is_anthropic(path) else None)


def _openai_events(body: JSONObject) -> Iterator[bytes]:
    head = {key: body[key] for key in ("id", "created", "model")}
    head["object"] = "chat.completion.chunk"

    def chunk(number: int, delta: JSONObject, reason: str | None = None) -> bytes:
        part = {"index": number, "delta": delta, "finish_reason": reason}
        return _event(head | {"choices": [part]})

    for choice in body["choices"]:
        number, message = choice["index"], choice["message"]
        yield chunk(number, {"role": "assistant", "content": ""})
        for piece in _pieces(message["content"]):
            yield chunk(number, {"content": piece})
        if message["refusal"]:
            yield chunk(number, {"refusal": message["refusal"]})
        for index, call in enumerate(message.get("tool_calls", ())):
            function = call["function"]
            start = call | {"index": index, "function": function | {"arguments": ""}}
            yield chunk(number, {"tool_calls": [start]})
            for piece in _pieces(function["arguments"]):
                more = {"index": index, "function": {"arguments": piece}}
                yield chunk(number, {"tool_calls": [more]})
        yield chunk(number, {}, choice["finish_reason"])
    yield _event(head | {"choices": [], "usage": body["usage"]})
    yield b"data: [DONE]\n\n"


def _anthropic_events(body: JSONObject) -> Iterator[bytes]:
    usage = body["usage"]
    start: JSONObject = body | {"content": [], "usage": usage | {"output_tokens": 1}}
    start["stop_reason"] = None
    yield _event({"type": "message_start", "message": start}, "message_start")
    yield _event({"type": "ping"}, "ping")
    for index, block in enumerate(body["content"]):
        if block["type"] == "text":
            empty = block | {"text": ""}
            deltas = [
                {"type": "text_delta", "text": piece}
                for piece in _pieces(block["text"])
            ]
        else:
            empty = block | {"input": {}}
            deltas = [
                {"type": "input_json_delta", "partial_json": piece}
                for piece in _pieces(json.dumps(block["input"]))
            ]
        kind = "content_block_start"
        yield _event({"type": kind, "index": index, "content_block": empty}, kind)
        kind = "content_block_delta"
        for delta in deltas:
            yield _event({"type": kind, "index": index, "delta": delta}, kind)
        kind = "content_block_stop"
        yield _event({"type": kind, "index": index}, kind)
    end = {"stop_reason": body["stop_reason"], "stop_sequence": None}
    output = {"output_tokens": usage["output_tokens"]}
    kind = "message_delta"
    yield _event({"type": kind, "delta": end, "usage": output}, kind)
    yield _event({"type": "message_stop"}, "message_stop")


def _event(data: JSONObject, name: str | None = None) -> bytes:
    head = f"event: {name}\n" if name else ""
    return f"{head}data: {json.dumps(data)}\n\n".encode()


def _pieces(text: str) -> list[str]:
    return [text[at : at + 4] for at in range(0, len(text), 4)]


def _function_call(call: ToolCall) -> JSONObject:
    function = {"name": call.name, "arguments": call.arguments}
    return {"id": call.id, "type": "function", "function": function}


def _tool_use(call: ToolCall) -> JSONObject:
    arguments = json.loads(call.arguments)
    return {"type": "tool_use", "id": call.id, "name": call.name, "input": arguments}


def _openai_usage(usage: Usage) -> JSONObject:
    return {
        "prompt_tokens": usage.input_tokens,
        "completion_tokens": usage.output_tokens,
        "total_tokens": usage.total_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens},
        "completion_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
    }


def _anthropic_usage(usage: Usage) -> JSONObject:
    return {
        "input_tokens": usage.input_tokens - usage.cached_tokens,
        "cache_read_input_tokens": usage.cached_tokens,
        "cache_creation_input_tokens": 0,
        "output_tokens": usage.output_tokens,
    }
