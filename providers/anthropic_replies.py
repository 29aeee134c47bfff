"""What Anthropic's messages API answers: whole bodies and streams of events."""

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

_MAX_BLOCK: Final = 1023  # the number of a content block: more is rubbish
_STOP_REASONS: Final[dict[str | None, FinishReason]] = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "tool_use": "tool_calls",
    "refusal": "refusal",
}


class _Block(msgspec.Struct):
    type: str
    text: str = ""
    id: str = ""
    name: str = ""
    input: msgspec.Raw = msgspec.Raw(b"{}")


class _Usage(msgspec.Struct):
    input_tokens: TokenCount | None = None
    output_tokens: TokenCount | None = None
    cache_read_input_tokens: TokenCount | None = None
    cache_creation_input_tokens: TokenCount | None = None


class _Reply(msgspec.Struct):
    content: list[_Block]
    model: str = ""
    id: str | None = None
    stop_reason: str | None = None
    usage: _Usage | None = None


class _Start(msgspec.Struct):
    model: str = ""
    id: str | None = None
    usage: _Usage | None = None


class _Delta(msgspec.Struct):
    type: str = ""
    text: str = ""
    partial_json: str = ""
    stop_reason: str | None = None


class _Error(msgspec.Struct):
    message: str = "the server gave no reason"
    type: str | None = None


class _Event(msgspec.Struct):
    type: str
    index: int = 0
    message: _Start | None = None
    content_block: _Block | None = None
    delta: _Delta | None = None
    usage: _Usage | None = None
    error: _Error | None = None


_REPLY: Final = msgspec.json.Decoder(_Reply)
_EVENT: Final = msgspec.json.Decoder(_Event)


@dataclass(slots=True)
class _OpenBlock:
    type: str
    id: str = ""
    name: str = ""
    text: list[str] = field(default_factory=list[str])


def decode_message(body: bytes, *, answer_tool: str | None) -> Decoded:
    """Read the body of a good reply.

    The arguments of a call of `answer_tool` are the text of the answer.

    Raises:
        msgspec.ValidationError: it is not a message.
    """
    reply = _REPLY.decode(body)
    blocks = [
        _OpenBlock(
            block.type,
            block.id,
            block.name,
            [block.text if block.type == "text" else bytes(block.input).decode()],
        )
        for block in reply.content
    ]
    return Decoded(
        (_choice(blocks, reply.stop_reason, answer_tool),),
        _usage(reply.usage),
        reply.model,
        reply.id,
    )


class MessageDecoder:
    """Puts the events of one streamed message together."""

    def __init__(self, *, answer_tool: str | None) -> None:
        self._answer_tool = answer_tool
        self._blocks: dict[int, _OpenBlock] = {}
        self._calls: dict[int, int] = {}  # of a block: the number of its tool call
        self._usage = _Usage()
        self._model = ""
        self._id: str | None = None
        self._stop_reason: str | None = None
        self._done = False

    @property
    def is_complete(self) -> bool:
        """Whether the server has said that the message ends."""
        return self._done

    def feed(self, event: ServerEvent) -> Sequence[Delta]:
        """Take an event and give what it adds.

        Raises:
            msgspec.ValidationError: it is not an event of a message.
            StreamFailedError: it is an error of the server.
        """
        data = _EVENT.decode(event.data)
        match data.type:
            case "error":
                error = data.error or _Error()
                raise StreamFailedError(error.message, error.type)
            case "message_start" if data.message is not None:
                self._model, self._id = data.message.model, data.message.id
                self._add_usage(data.message.usage)
            case "content_block_start" if data.content_block is not None:
                return self._start_block(data.index, data.content_block)
            case "content_block_delta" if data.delta is not None:
                return self._extend_block(data.index, data.delta)
            case "message_delta":
                if data.delta is not None:
                    self._stop_reason = data.delta.stop_reason or self._stop_reason
                self._add_usage(data.usage)
            case "message_stop":
                self._done = True
            case _:
                pass  # ping, content_block_stop, and whatever comes in years to come
        return ()

    def result(self) -> Decoded:
        """Give what has come so far."""
        blocks = [block for _, block in sorted(self._blocks.items())]
        return Decoded(
            (_choice(blocks, self._stop_reason, self._answer_tool),),
            _usage(self._usage),
            self._model,
            self._id,
        )

    def _start_block(self, index: int, start: _Block) -> Sequence[Delta]:
        if not 0 <= index <= _MAX_BLOCK:
            raise msgspec.ValidationError(f"{index} is no block - at `$.index`")
        block = _OpenBlock(start.type, start.id, start.name)
        self._blocks[index] = block
        if block.type == "tool_use" and block.name != self._answer_tool:
            number = self._calls.setdefault(index, len(self._calls))
            return (ToolCallDelta(number, "", block.id, block.name),)
        if start.text and block.type == "text":
            block.text.append(start.text)
            return (TextDelta(start.text),)
        return ()

    def _extend_block(self, index: int, delta: _Delta) -> Sequence[Delta]:
        block = self._blocks.get(index)
        if block is None:
            raise msgspec.ValidationError(f"block {index} was never started")
        more = delta.text if block.type == "text" else delta.partial_json
        if not more or block.type not in ("text", "tool_use"):
            return ()  # thinking, or a tool that the server itself calls
        block.text.append(more)
        if index in self._calls:
            return (ToolCallDelta(self._calls[index], more),)
        return (TextDelta(more),)

    def _add_usage(self, usage: _Usage | None) -> None:
        # Each event repeats or completes the counts of those before.
        for name in _Usage.__struct_fields__ if usage is not None else ():
            count: int | None = getattr(usage, name)
            if count is not None:
                setattr(self._usage, name, count)


def _choice(
    blocks: Sequence[_OpenBlock], stop_reason: str | None, answer_tool: str | None
) -> Choice:
    text: list[str] = []
    calls: list[ToolCall] = []
    answered = False
    for block in blocks:
        if block.type == "text":
            text.extend(block.text)
        elif block.type == "tool_use" and block.name == answer_tool:
            text = [*block.text]
            answered = True
            break
        elif block.type == "tool_use":
            arguments = "".join(block.text) or "{}"
            calls.append(ToolCall(block.id, block.name, arguments))
    reason = _STOP_REASONS.get(stop_reason, "other")
    if answered and reason == "tool_calls":
        reason = "stop"
    joined = "".join(text)
    refusal = (joined or "the model refused") if reason == "refusal" else None
    return Choice("" if refusal else joined, tuple(calls), reason, refusal)


def _usage(usage: _Usage | None) -> Usage:
    if usage is None:
        return Usage()
    cached = usage.cache_read_input_tokens or 0
    # The API counts what was read from its cache, or written to it, apart.
    written = usage.cache_creation_input_tokens or 0
    return Usage(
        (usage.input_tokens or 0) + cached + written, usage.output_tokens or 0, cached
    )
