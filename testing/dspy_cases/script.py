"""A model that answers from a case's list of completions; the last one repeats."""

from collections.abc import Mapping, Sequence
from typing import Any

from dspex.providers import Choice, Request, Response, ToolCall, Usage
from dspex.providers.errors import ContextLengthError
from dspex.providers.lm import Capabilities
from dspex.testing.scripted_lm import ScriptedLM

# Any: JSON.
Item = str | None | dict[str, Any]


def scripted_lm(completions: Sequence[Item], capabilities: Capabilities) -> ScriptedLM:
    """Build the model of a case."""
    used = 0

    def rule(request: Request) -> Response | Exception:
        nonlocal used
        item = completions[min(used, len(completions) - 1)]
        used += 1
        return to_answer(item)

    return ScriptedLM(rule, capabilities=capabilities)


def to_answer(item: Item) -> Response | Exception:
    """Give the response, or the exception, that an item of a script stands for."""
    if item is None or isinstance(item, str):
        return _response(Choice(item or ""))
    if "error" in item:
        return _error(item["error"], item.get("message", "scripted"))
    if "n" in item:
        return _response(*(Choice(text or "") for text in item["n"]))
    calls = [
        ToolCall(
            call.get("id") or f"call_{index}",
            call["function"]["name"],
            call["function"]["arguments"],
        )
        for index, call in enumerate(item.get("tool_calls") or ())
    ]
    return _response(Choice(item.get("content") or "", tuple(calls), "tool_calls"))


def _response(*choices: Choice) -> Response:
    return Response(choices, Usage(), "scripted")


def _error(name: str, message: str) -> Exception:
    if name == "ContextWindowExceededError":
        return ContextLengthError(message, provider="scripted")
    known: Mapping[str, type[Exception]] = {
        "RuntimeError": RuntimeError,
        "ValueError": ValueError,
    }
    return known[name](message)
