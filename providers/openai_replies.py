"""What OpenAI's chat completions answer: whole bodies and streams of chunks."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

import msgspec

from dspex.providers.messages import Choice, FinishReason, ToolCall, Usage
from dspex.providers.sse import ServerEvent
from dspex.providers.streams import (
    Decoded,
    Delta,
    StreamFailedError,
    TextDelta,
    TokenCount,
    ToolCallDelta,
)

_MAX_NUMBER: Final = 1023  # of a choice or a tool call: more is rubbish
_FINISH_REASONS: Final[dict[str | None, FinishReason]] = {
    "stop": "stop",
    "length": "length",
    "tool_calls": "tool_calls",
    "function_call": "tool_calls",
    "content_filter": "content_filter",
}


class _Function(msgspec.Struct):
    name: str
    arguments: str


class _ToolCall(msgspec.Struct):
    id: str
    function: _Function


class _Message(msgspec.Struct):
    content: str | None = None
    refusal: str | None = None
    tool_calls: list[_ToolCall] | None = None


class _Choice(msgspec.Struct):
    message: _Message
    finish_reason: str | None = None


class _InputDetails(msgspec.Struct):
    cached_tokens: TokenCount | None = None


class _OutputDetails(msgspec.Struct):
    reasoning_tokens: TokenCount | None = None


class _Usage(msgspec.Struct):
    prompt_tokens: TokenCount = 0
    completion_tokens: TokenCount = 0
    prompt_tokens_details: _InputDetails | None = None
    completion_tokens_details: _OutputDetails | None = None


class _Reply(msgspec.Struct):
    choices: list[_Choice]
    model: str = ""
    id: str | None = None
    usage: _Usage | None = None


class _FunctionDelta(msgspec.Struct):
    name: str | None = None
    arguments: str | None = None


class _ToolCallDelta(msgspec.Struct):
    index: int = 0
    id: str | None = None
    function: _FunctionDelta | None = None


class _MessageDelta(msgspec.Struct):
    content: str | None = None
    refusal: str | None = None
    tool_calls: list[_ToolCallDelta] | None = None


class _ChoiceDelta(msgspec.Struct):
    index: int = 0
    delta: _MessageDelta | None = None
    finish_reason: str | None = None


class _Error(msgspec.Struct):
    message: str = "the server gave no reason"
    code: str | int | None = None
    type: str | None = None


class _Chunk(msgspec.Struct):
    choices: list[_ChoiceDelta] | None = None
    model: str = ""
    id: str | None = None
    usage: _Usage | None = None
    error: _Error | str | None = None


_REPLY: Final = msgspec.json.Decoder(_Reply)
_CHUNK: Final = msgspec.json.Decoder(_Chunk)


def decode_reply(body: bytes) -> Decoded:
    """Read the body of a good reply.

    Raises:
        msgspec.ValidationError: it is not a chat completion.
    """
    reply = _REPLY.decode(body)
    if not reply.choices:
        raise msgspec.ValidationError("Array has no element - at `$.choices`")
    return Decoded(
        tuple(_choice(choice) for choice in reply.choices),
        _usage(reply.usage),
        reply.model,
        reply.id,
    )


@dataclass(slots=True)
class _OpenCall:
    id: str = ""
    name: str = ""
    arguments: list[str] = field(default_factory=list[str])


@dataclass(slots=True)
class _OpenChoice:
    text: list[str] = field(default_factory=list[str])
    refusal: list[str] = field(default_factory=list[str])
    calls: dict[int, _OpenCall] = field(default_factory=dict[int, _OpenCall])
    finish_reason: str | None = None


class ChunkDecoder:
    """Puts the chunks of one streamed chat completion of `n` choices together."""

    def __init__(self, n: int = 1) -> None:
        self._n = n
        self._choices: dict[int, _OpenChoice] = {}
        self._usage = Usage()
        self._model = ""
        self._id: str | None = None
        self._done = False

    @property
    def is_complete(self) -> bool:
        """Whether the server has said [DONE], or how every choice ended."""
        return self._done or (
            len(self._choices) >= self._n
            and all(choice.finish_reason for choice in self._choices.values())
        )

    def feed(self, event: ServerEvent) -> Sequence[Delta]:
        """Take an event and give what it adds.

        Raises:
            msgspec.ValidationError: it is not a chunk of a chat completion.
            StreamFailedError: it is an error of the server.
        """
        if event.data == b"[DONE]":
            self._done = True
            return ()
        chunk = _CHUNK.decode(event.data)
        if isinstance(chunk.error, str):
            raise StreamFailedError(chunk.error, None)
        if chunk.error is not None:
            code = chunk.error.code if isinstance(chunk.error.code, str) else None
            raise StreamFailedError(chunk.error.message, code or chunk.error.type)
        self._model = chunk.model or self._model
        self._id = chunk.id or self._id
        if chunk.usage is not None:
            self._usage = _usage(chunk.usage)
        deltas: list[Delta] = []
        for part in chunk.choices or ():
            _check_number(part.index, "$.choices[...].index")
            choice = self._choices.setdefault(part.index, _OpenChoice())
            choice.finish_reason = part.finish_reason or choice.finish_reason
            if part.delta is not None:
                deltas.extend(_extend(choice, part.index, part.delta))
        return deltas

    def result(self) -> Decoded:
        """Give what has come so far."""
        numbers = sorted(self._choices)
        return Decoded(
            tuple(_closed(self._choices[number]) for number in numbers),
            self._usage,
            self._model,
            self._id,
        )


def _extend(choice: _OpenChoice, number: int, delta: _MessageDelta) -> list[Delta]:
    deltas: list[Delta] = []
    if delta.content:
        choice.text.append(delta.content)
        deltas.append(TextDelta(delta.content, number))
    if delta.refusal:
        choice.refusal.append(delta.refusal)
    for part in delta.tool_calls or ():
        _check_number(part.index, "$.choices[...].delta.tool_calls[...].index")
        call = choice.calls.setdefault(part.index, _OpenCall())
        function = part.function or _FunctionDelta()
        call.id = part.id or call.id
        call.name = function.name or call.name
        call.arguments.append(function.arguments or "")
        deltas.append(
            ToolCallDelta(
                part.index,
                function.arguments or "",
                part.id,
                function.name,
                number,
            )
        )
    return deltas


def _closed(choice: _OpenChoice) -> Choice:
    calls = tuple(
        ToolCall(call.id, call.name, "".join(call.arguments))
        for _, call in sorted(choice.calls.items())
    )
    refusal = "".join(choice.refusal) or None
    return Choice(
        "".join(choice.text), calls, _reason(choice.finish_reason, refusal), refusal
    )


def _choice(choice: _Choice) -> Choice:
    message = choice.message
    refusal = message.refusal or None
    return Choice(
        message.content or "",
        tuple(
            ToolCall(call.id, call.function.name, call.function.arguments)
            for call in message.tool_calls or ()
        ),
        _reason(choice.finish_reason, refusal),
        refusal,
    )


def _reason(finish_reason: str | None, refusal: str | None) -> FinishReason:
    if refusal is not None:
        return "refusal"
    return _FINISH_REASONS.get(finish_reason, "other")


def _usage(usage: _Usage | None) -> Usage:
    if usage is None:
        return Usage()
    inputs, outputs = usage.prompt_tokens_details, usage.completion_tokens_details
    cached = (inputs.cached_tokens or 0) if inputs else 0
    return Usage(
        usage.prompt_tokens,
        usage.completion_tokens,
        min(cached, usage.prompt_tokens),  # or the fresh ones would lower a cost
        (outputs.reasoning_tokens or 0) if outputs else 0,
    )


def _check_number(number: int, where: str) -> None:
    if not 0 <= number <= _MAX_NUMBER:
        raise msgspec.ValidationError(f"{number} is no number of a part - at `{where}`")
