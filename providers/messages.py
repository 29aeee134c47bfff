"""What goes to a model and what comes back, as data: the same for every provider.

All types are frozen and travel as JSON both ways: `to_json()` gives plain dicts and
lists, `from_json()` checks what it reads. `Request.fingerprint()` is equal for equal
requests, in any process.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Self, TypeAlias

import msgspec

from dspex.providers.errors import InvalidRequestError
from dspex.providers.parts import Content, Part
from dspex.providers.plain_json import FromJSON, JSONObject

Role: TypeAlias = Literal["system", "user", "assistant", "tool"]
FinishReason: TypeAlias = Literal[
    "stop", "length", "tool_calls", "content_filter", "refusal", "other"
]


def _nothing() -> dict[str, object]:
    return {}  # a quarter of what `dict[str, object]()` takes


@dataclass(frozen=True, slots=True)
class ToolCall(FromJSON):
    """A call of a tool by the model; `arguments` is the JSON text it wrote."""

    id: str
    name: str
    arguments: str

    def to_json(self) -> JSONObject:
        """Give the call as plain JSON."""
        return {"id": self.id, "name": self.name, "arguments": self.arguments}


@dataclass(frozen=True, slots=True)
class ToolSpec(FromJSON):
    """A tool the model may call; `parameters` is the JSON schema of its arguments."""

    name: str
    description: str
    parameters: Mapping[str, object] = field(hash=False)

    def to_json(self) -> JSONObject:
        """Give the spec as plain JSON."""
        return {
            "name": self.name,
            "description": self.description,
            "parameters": dict(self.parameters),
        }


@dataclass(frozen=True, slots=True)
class OutputSchema(FromJSON):
    """The JSON schema the answer must follow."""

    name: str
    schema: Mapping[str, object] = field(hash=False)
    strict: bool = True

    def to_json(self) -> JSONObject:
        """Give the schema as plain JSON."""
        return {"name": self.name, "schema": dict(self.schema), "strict": self.strict}


@dataclass(frozen=True, slots=True)
class Message(FromJSON):
    """One turn of a conversation.

    A `tool` message is the result of the call `tool_call_id`.
    """

    role: Role
    content: Content
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str | None = None

    def __post_init__(self) -> None:
        if self.role == "tool" and self.tool_call_id is None:
            raise InvalidRequestError(
                "tool_call_id", None, "must name the call that this message answers"
            )

    @classmethod
    def system(cls, text: str) -> Self:
        """Give instructions to the model."""
        return cls("system", text)

    @classmethod
    def user(cls, content: str | Sequence[Part]) -> Self:
        """Give what the user says: text, or parts with images and files."""
        return cls("user", content if isinstance(content, str) else tuple(content))

    @classmethod
    def assistant(cls, text: str, *, tool_calls: Sequence[ToolCall] = ()) -> Self:
        """Give what the model said."""
        return cls("assistant", text, tuple(tool_calls))

    @classmethod
    def tool(cls, text: str, *, call_id: str) -> Self:
        """Give the result of the tool call `call_id`."""
        return cls("tool", text, (), call_id)

    @property
    def text(self) -> str:
        """The text of the message; the parts' texts joined when it has parts."""
        if isinstance(self.content, str):
            return self.content
        return "".join(part.text for part in self.content if part.type == "text")

    def to_json(self) -> JSONObject:
        """Give the message as plain JSON."""
        content = self.content
        return {
            "role": self.role,
            "content": content
            if isinstance(content, str)
            else [part.to_json() for part in content],
            "tool_calls": [call.to_json() for call in self.tool_calls],
            "tool_call_id": self.tool_call_id,
        }


@dataclass(frozen=True, slots=True)
class Request(FromJSON):
    """One model call: the messages, and how the answer shall be made.

    `tool_choice` is "auto", "none", "required" or the name of a tool. `None` leaves a
    setting to the provider. `extra` goes into the provider's body as it is.

    Raises:
        InvalidRequestError: a value no provider could accept.
    """

    messages: tuple[Message, ...]
    output_schema: OutputSchema | None = None
    tools: tuple[ToolSpec, ...] = ()
    tool_choice: str | None = None
    temperature: float | None = None
    top_p: float | None = None
    max_tokens: int | None = None
    stop: tuple[str, ...] = ()
    seed: int | None = None
    n: int = 1
    extra: Mapping[str, object] = field(default_factory=_nothing, hash=False)

    def __post_init__(self) -> None:
        if not self.messages:
            raise InvalidRequestError("messages", self.messages, "is empty")
        if self.n < 1:
            raise InvalidRequestError("n", self.n, "must be at least 1")
        if self.max_tokens is not None and self.max_tokens < 1:
            raise InvalidRequestError("max_tokens", self.max_tokens, "must be positive")
        if self.temperature is not None and not 0 <= self.temperature <= 2:
            raise InvalidRequestError(
                "temperature", self.temperature, "must be between 0 and 2"
            )
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise InvalidRequestError(
                "top_p", self.top_p, "must be over 0 and at most 1"
            )
        if self.tool_choice is not None:
            names = [tool.name for tool in self.tools]
            if not names:
                raise InvalidRequestError(
                    "tool_choice", self.tool_choice, "needs tools to choose from"
                )
            if self.tool_choice not in ("auto", "none", "required", *names):
                raise InvalidRequestError(
                    "tool_choice",
                    self.tool_choice,
                    f"must be auto, none, required or a tool's name: {names}",
                )

    @classmethod
    def of(cls, request: "Request | str | Sequence[Message]") -> "Request":
        """Give the request that a text or some messages stand for."""
        if isinstance(request, Request):
            return request
        if isinstance(request, str):
            return cls((Message.user(request),))
        return cls(tuple(request))

    def to_json(self) -> JSONObject:
        """Give the request as plain JSON."""
        schema = self.output_schema
        return {
            "messages": [message.to_json() for message in self.messages],
            "output_schema": None if schema is None else schema.to_json(),
            "tools": [tool.to_json() for tool in self.tools],
            "tool_choice": self.tool_choice,
            "temperature": self.temperature,
            "top_p": self.top_p,
            "max_tokens": self.max_tokens,
            "stop": list(self.stop),
            "seed": self.seed,
            "n": self.n,
            "extra": dict(self.extra),
        }

    def fingerprint(self) -> str:
        """Give the SHA-256 (hex) of everything that changes the answer.

        The order of a schema's fields counts, for the model writes them in that
        order; the order of keys in `extra` does not, nor does 1 against 1.0.

        Raises:
            InvalidRequestError: it holds what JSON cannot say.
        """
        data = self.to_json()
        for key in ("temperature", "top_p"):
            if data[key] is not None:
                data[key] = float(data[key])
        try:
            extra = msgspec.json.encode(data["extra"], order="deterministic")
            data["extra"] = extra.hex()
            return hashlib.sha256(msgspec.json.encode(data)).hexdigest()
        except (TypeError, ValueError) as error:
            raise InvalidRequestError(
                "request", self, f"cannot be written as JSON: {error}"
            ) from None


@dataclass(frozen=True, slots=True)
class Usage(FromJSON):
    """Tokens of one or more calls; `a + b` sums them.

    `cached_tokens` are part of the input, `reasoning_tokens` part of the output.
    """

    input_tokens: int = 0
    output_tokens: int = 0
    cached_tokens: int = 0
    reasoning_tokens: int = 0

    @property
    def total_tokens(self) -> int:
        """Input and output tokens."""
        return self.input_tokens + self.output_tokens

    def __add__(self, other: "Usage") -> "Usage":
        """Sum two usages."""
        return Usage(
            self.input_tokens + other.input_tokens,
            self.output_tokens + other.output_tokens,
            self.cached_tokens + other.cached_tokens,
            self.reasoning_tokens + other.reasoning_tokens,
        )

    def to_json(self) -> JSONObject:
        """Give the usage as plain JSON."""
        return {
            "input_tokens": self.input_tokens,
            "output_tokens": self.output_tokens,
            "cached_tokens": self.cached_tokens,
            "reasoning_tokens": self.reasoning_tokens,
        }


@dataclass(frozen=True, slots=True)
class Choice(FromJSON):
    """One answer. `refusal` is what the model said when it would not answer."""

    text: str
    tool_calls: tuple[ToolCall, ...] = ()
    finish_reason: FinishReason = "stop"
    refusal: str | None = None

    def to_json(self) -> JSONObject:
        """Give the choice as plain JSON."""
        return {
            "text": self.text,
            "tool_calls": [call.to_json() for call in self.tool_calls],
            "finish_reason": self.finish_reason,
            "refusal": self.refusal,
        }


@dataclass(frozen=True, slots=True)
class Response(FromJSON):
    """What a model answered: at least one choice, and what it took.

    `id` is the provider's; `seconds` counts from the call to its answer, with
    retries and waits. `attempts` counts the tries, and `is_cached` is True where a
    cache of this process had the answer; neither makes two responses different.
    """

    choices: tuple[Choice, ...]
    usage: Usage
    model: str
    id: str | None = None
    seconds: float = 0.0
    attempts: int = field(default=1, compare=False)
    is_cached: bool = field(default=False, compare=False)

    def __post_init__(self) -> None:
        if not self.choices:
            raise InvalidRequestError("choices", self.choices, "is empty")

    @property
    def text(self) -> str:
        """The text of the first choice."""
        return self.choices[0].text

    @property
    def tool_calls(self) -> tuple[ToolCall, ...]:
        """The tool calls of the first choice."""
        return self.choices[0].tool_calls

    def to_json(self) -> JSONObject:
        """Give the response as plain JSON."""
        return {
            "choices": [choice.to_json() for choice in self.choices],
            "usage": self.usage.to_json(),
            "model": self.model,
            "id": self.id,
            "seconds": self.seconds,
            "attempts": self.attempts,
            "is_cached": self.is_cached,
        }
