"""The hosted dspy's model: every call goes to the parent as plain JSON.

dspy 3.4 takes an engine with `complete(Request) -> Response` in its own canonical
vocabulary (`dspy.lm15`); the parent's is the JSON of `dspex.providers.messages`. This
file is the translation, both ways.
"""

import asyncio
import json
import re
from collections.abc import AsyncGenerator, Callable, Generator
from typing import Any

from dspex.runtime.bridge.child_dspy import load_lm15
from dspex.runtime.bridge.protocol import ErrorInfo, JSONObject, ModelReply

# Any: dspy is not installed where the types of this file are checked.
Lm15 = Any

_WORDS = re.compile(r"\s*\S+|\s+")
_EXTRAS = (
    "top_k",
    "frequency_penalty",
    "presence_penalty",
    "service_tier",
    "store",
)
_FINISH = {
    "stop": "stop",
    "length": "length",
    "tool_calls": "tool_call",
    "content_filter": "content_filter",
    "refusal": "content_filter",
}
# The parent's error classes, nearest first, and what dspy calls the same thing.
_ERRORS = {
    "ContextLengthError": "ContextLengthError",
    "RateLimitError": "RateLimitError",
    "AuthenticationError": "AuthError",
    "PermissionDeniedError": "AuthError",
    "MissingKeyError": "NotConfiguredError",
    "ConfigurationError": "ConfigurationError",
    "UnsupportedError": "UnsupportedFeatureError",
    "NotFoundError": "UnsupportedModelError",
    "BadRequestError": "InvalidRequestError",
    "InvalidRequestError": "InvalidRequestError",
    "ProviderTimeoutError": "TimeoutError",
    "ConnectionFailedError": "TransportError",
    "ModelUnavailableError": "TransportError",
    "ServerError": "ServerError",
}


class ParentEngine:
    """One run's engine: `ask` sends a request to the parent and waits."""

    supports_reasoning = False

    def __init__(
        self,
        ask: Callable[[JSONObject], ModelReply],
        ask_for_pieces: "Callable[[JSONObject], Generator[str, None, ModelReply]]",
        *,
        json_schema: bool,
        native_tools: bool,
    ) -> None:
        self._ask = ask
        self._ask_for_pieces = ask_for_pieces
        self._lm15: Lm15 = load_lm15()
        self.supports_response_schema = json_schema
        self.supports_function_calling = native_tools
        self.supported_params = {"temperature", "max_tokens", "top_p", "stop", "seed"}
        if json_schema:
            self.supported_params.add("response_format")
        if native_tools:
            self.supported_params |= {"tools", "tool_choice"}
        self.usage = {
            "input_tokens": 0,
            "output_tokens": 0,
            "cached_tokens": 0,
            "reasoning_tokens": 0,
        }
        self.calls = 0

    def complete(self, request: Lm15) -> Lm15:
        """Answer one request of dspy; errors are dspy's own."""
        self.calls += 1
        return self._take(self._ask(request_to_json(request, self._lm15)))

    def stream(self, request: Lm15) -> "Generator[Lm15, None, None]":
        """Answer the same by events of dspy: its text in pieces."""
        lm15 = self._lm15
        self.calls += 1
        yield lm15.StreamStartEvent()
        pieces = self._ask_for_pieces(request_to_json(request, lm15))
        has_text = False
        while True:
            try:
                text = next(pieces)
            except StopIteration as done:
                reply = done.value
                break
            has_text = True
            yield lm15.StreamDeltaEvent(lm15.TextDelta(text))
        response = self._take(reply)
        for index, part in enumerate(response.message.parts):
            if part.type == "tool_call":
                delta = lm15.ToolCallDelta(
                    json.dumps(part.input), index, part.id, part.name
                )
                yield lm15.StreamDeltaEvent(delta)
            elif not has_text and part.text:
                # dspy's listeners miss a field that begins and ends in one piece.
                for word in _WORDS.findall(part.text):
                    yield lm15.StreamDeltaEvent(lm15.TextDelta(word))
        yield lm15.StreamEndEvent(response.finish_reason, response.usage)

    def _take(self, reply: ModelReply) -> Lm15:
        if reply.error is not None:
            raise model_error(reply.error, self._lm15)
        assert reply.response is not None
        for name, tokens in reply.response["usage"].items():
            self.usage[name] += tokens
        return response_from_json(reply.response, self._lm15)

    def close(self) -> None:
        """Nothing is held."""


class AsyncParentEngine:
    """The same for dspy's async modules: the wait is in a thread."""

    def __init__(self, engine: ParentEngine) -> None:
        self._engine = engine

    async def complete(self, request: Lm15) -> Lm15:
        """Answer one request of dspy without stopping its event loop."""
        return await asyncio.to_thread(self._engine.complete, request)

    async def stream(self, request: Lm15) -> "AsyncGenerator[Lm15, None]":
        """Give the events of a stream; each is waited for in a thread."""
        events = self._engine.stream(request)
        while (event := await asyncio.to_thread(next, events, None)) is not None:
            yield event

    async def aclose(self) -> None:
        """Nothing is held."""


def request_to_json(request: Lm15, lm15: Lm15) -> JSONObject:
    """Say dspy's request in the parent's words.

    Raises:
        UnsupportedFeatureError (dspy's): a part or setting that the parent lacks.
    """
    messages: list[JSONObject] = []
    if request.system is not None:
        system = request.system
        content = system if isinstance(system, str) else _content(system, lm15)
        messages.append(_message("system", content))
    for message in request.messages:
        messages += _messages(message, lm15)
    config = request.config
    if config.logprobs is not None or config.probabilities not in (None, "off"):
        raise lm15.UnsupportedFeatureError("log probabilities do not cross the bridge")
    extra = {
        name: getattr(config, name)
        for name in _EXTRAS
        if getattr(config, name) is not None
    }
    if config.user_id is not None:
        extra["user"] = config.user_id
    if config.reasoning is not None and not config.reasoning.is_off:
        extra["reasoning_effort"] = config.reasoning.effort
    extra.update(config.extensions or {})
    return {
        "messages": messages,
        "output_schema": _output_schema(config.response_format),
        "tools": [_tool(tool, lm15) for tool in request.tools],
        "tool_choice": _tool_choice(config.tool_choice, lm15),
        "temperature": config.temperature,
        "top_p": config.top_p,
        "max_tokens": config.max_tokens,
        "stop": list(config.stop),
        "seed": config.seed,
        "n": 1,
        "extra": extra,
    }


def response_from_json(response: JSONObject, lm15: Lm15) -> Lm15:
    """Say the parent's answer in dspy's words."""
    choice = response["choices"][0]
    parts: list[Lm15] = []
    if choice["text"] or not choice["tool_calls"]:
        parts.append(lm15.TextPart(choice["text"] or choice.get("refusal") or ""))
    parts += [
        lm15.ToolCallPart(call["id"], call["name"], _arguments(call, lm15))
        for call in choice["tool_calls"]
    ]
    usage = response["usage"]
    return lm15.Response(
        id=response.get("id") or None,
        model=response["model"] or "unknown",
        message=lm15.Message.assistant(parts),
        finish_reason=_FINISH.get(choice["finish_reason"], "stop"),
        usage=lm15.Usage(
            input_tokens=usage["input_tokens"],
            output_tokens=usage["output_tokens"],
            cache_read_tokens=usage["cached_tokens"],
            reasoning_tokens=usage["reasoning_tokens"],
        ),
    )


def _arguments(call: JSONObject, lm15: Lm15) -> JSONObject:
    try:
        found: JSONObject = json.loads(call["arguments"] or "{}")
    except ValueError as error:
        # Not repaired in silence, and not dropped: a tool acts on them.
        text = call["arguments"][:200]
        raise lm15.ProviderError(
            f"the arguments for tool {call['name']!r} are no JSON: {text!r}"
        ) from error
    return found


def model_error(error: ErrorInfo, lm15: Lm15) -> Exception:
    """Give dspy's exception for a failed call, marked with the call's number."""
    name = next((_ERRORS[k] for k in error.kinds if k in _ERRORS), "ProviderError")
    exception: Exception = getattr(lm15, name)(error.message)
    exception.dspex_call = error.call  # type: ignore[attr-defined]
    return exception


def _message(role: str, content: "str | list[JSONObject]") -> JSONObject:
    return {"role": role, "content": content, "tool_calls": [], "tool_call_id": None}


def _messages(message: Lm15, lm15: Lm15) -> list[JSONObject]:
    if message.role == "tool":
        return [
            _message("tool", _text(part.content, lm15)) | {"tool_call_id": part.id}
            for part in message.parts
        ]
    role = "system" if message.role == "developer" else message.role
    calls = message.parts_of(lm15.ToolCallPart)
    rest = [
        part
        for part in message.parts
        if not isinstance(part, (lm15.ToolCallPart, lm15.ThinkingPart))
    ]
    said = _message(role, _content(rest, lm15))
    said["tool_calls"] = [
        {"id": call.id, "name": call.name, "arguments": json.dumps(call.input)}
        for call in calls
    ]
    return [said]


def _content(parts: "list[Lm15]", lm15: Lm15) -> "str | list[JSONObject]":
    content = [_part(part, lm15) for part in parts]
    if all(part["type"] == "text" for part in content):
        return "\n".join(part["text"] for part in content)
    return content


def _text(parts: "list[Lm15]", lm15: Lm15) -> str:
    content = _content(parts, lm15)
    if not isinstance(content, str):
        raise lm15.UnsupportedFeatureError(
            "a tool's result with images does not cross the bridge"
        )
    return content


def _part(part: Lm15, lm15: Lm15) -> JSONObject:
    kind = part.type
    if kind in ("text", "refusal"):
        return {"type": "text", "text": part.text}
    if kind == "data":
        return {"type": "text", "text": json.dumps(part.value)}
    if kind == "citation":
        return {"type": "text", "text": part.text or part.title or part.url}
    if kind == "image" and part.file_id is None:
        inline = part.url is None
        return {
            "type": "image",
            "url": part.url,
            "data": _data(part) if inline else None,
            "media_type": part.media_type if inline else None,
            "detail": part.detail,
        }
    if kind in ("audio", "video", "document", "binary") and _is_inline(part):
        return {
            "type": "file",
            "data": _data(part),
            "media_type": part.media_type,
            "filename": None,
        }
    raise lm15.UnsupportedFeatureError(
        f"a {kind} part by url or file id does not cross the bridge: pass its data"
    )


def _is_inline(part: Lm15) -> bool:
    return part.data is not None or part.path is not None


def _data(part: Lm15) -> str:
    if part.data is not None:
        data: str = part.data
        return data
    import base64

    return base64.b64encode(part.bytes).decode()


def _output_schema(response_format: "JSONObject | None") -> "JSONObject | None":
    if response_format is None:
        return None
    if response_format["type"] == "json_object":
        return {"name": "json", "schema": {"type": "object"}, "strict": False}
    return {
        "name": response_format.get("name", "output"),
        "schema": response_format["schema"],
        "strict": response_format.get("strict", True),
    }


def _tool(tool: Lm15, lm15: Lm15) -> JSONObject:
    if not isinstance(tool, lm15.FunctionTool):
        raise lm15.UnsupportedFeatureError(
            f"the provider's built-in tool {tool.name!r} does not cross the bridge"
        )
    return {
        "name": tool.name,
        "description": tool.description or "",
        "parameters": tool.parameters,
    }


def _tool_choice(choice: Lm15, lm15: Lm15) -> "str | None":
    if choice is None:
        return None
    if not choice.allowed:
        mode: str = choice.mode
        return mode
    if len(choice.allowed) == 1 and choice.mode == "required":
        name: str = choice.allowed[0]
        return name
    raise lm15.UnsupportedFeatureError(
        "a choice among several tools does not cross the bridge"
    )
