"""Tool calls as a value: what a model wants done."""

import json
from collections.abc import Sequence
from typing import Any, Self

import pydantic

from dspex.modules.plain import is_list, is_object
from dspex.modules.repair import repair
from dspex.providers.messages import ToolCall as ProviderCall


class ToolCall(pydantic.BaseModel):
    """One call: the tool's name and its arguments."""

    model_config = pydantic.ConfigDict(frozen=True, defer_build=True)

    name: str
    args: dict[str, Any]  # Any: JSON
    id: str | None = pydantic.Field(default=None, exclude=True)


class ToolCalls(pydantic.BaseModel):
    """The calls a model asks for: an output type. dspy's shape in JSON.

    Read from `{"tool_calls": [...]}`, a list of calls, or a single one; a call is
    `{"name", "args"}` or what OpenAI sends.
    """

    model_config = pydantic.ConfigDict(frozen=True, defer_build=True)

    tool_calls: tuple[ToolCall, ...]

    @classmethod
    def from_provider(cls, calls: Sequence[ProviderCall]) -> Self:
        """Take the calls of a model's answer; arguments are repaired as JSON."""
        return cls(
            tool_calls=tuple(
                ToolCall(name=c.name, args=read_arguments(c.arguments), id=c.id)
                for c in calls
            )
        )

    @pydantic.model_validator(mode="before")
    @classmethod
    def _normalize(cls, value: Any) -> Any:  # Any: before validation
        if is_object(value):
            if "tool_calls" in value:
                return {**value, "tool_calls": _calls(value["tool_calls"])}
            return {"tool_calls": _calls([value])} if _is_call(value) else value
        if is_list(value) and all(map(_is_call, value)):
            return {"tool_calls": _calls(value)}
        return value


def read_arguments(text: str) -> dict[str, Any]:  # Any: JSON
    """Give the arguments that a model wrote as JSON, repaired where that is possible.

    Nothing and null are no arguments.

    Raises:
        ValueError: they are no JSON object.
    """
    try:
        found: object = json.loads(text or "{}")
    except (ValueError, RecursionError):
        try:
            found = repair(text)
        except (ValueError, RecursionError):
            found = text
    if found is None:
        return {}
    if is_object(found):
        return found
    raise ValueError(f"arguments are no JSON object: {text[:200]!r}")


def _is_call(value: object) -> bool:
    if not is_object(value):
        return False
    named = "name" in value and ("args" in value or "arguments" in value)
    return named or "function" in value


def _calls(value: Any) -> Any:  # Any: before validation
    return [_call(item) for item in value] if is_list(value) else value


def _call(value: Any) -> Any:  # Any: before validation
    if not is_object(value):
        return value
    function: object = value.get("function")
    inner = function if is_object(function) else value
    args = inner.get("args", inner.get("arguments"))
    if isinstance(args, str):
        args = read_arguments(args)
    return {
        "name": inner.get("name"),
        "args": {} if args is None else args,
        "id": value.get("id"),
    }
