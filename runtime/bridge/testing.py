"""For tests of what uses a bridge: a model that answers from a script."""

from typing import Any

import trio

JSONObject = dict[str, Any]  # Any: plain JSON


def response(
    text: str, *, input_tokens: int = 10, output_tokens: int = 5
) -> JSONObject:
    """Give the JSON of a provider's `Response` with one text."""
    tool_calls: list[JSONObject] = []
    return {
        "choices": [{"text": text, "tool_calls": tool_calls, "finish_reason": "stop"}],
        "usage": {
            "input_tokens": input_tokens,
            "output_tokens": output_tokens,
            "cached_tokens": 0,
            "reasoning_tokens": 0,
        },
        "model": "scripted",
    }


def fields(**values: object) -> str:
    """Write output fields as dspy's chat adapter reads them."""
    return "\n\n".join(f"[[ ## {name} ## ]]\n{value}" for name, value in values.items())


class ScriptedModel:
    """A model handler that answers with its texts in turn, the last one for ever.

    `requests` are the requests it got. It waits `seconds` before each answer.
    """

    def __init__(self, *texts: str, seconds: float = 0.0) -> None:
        self._texts = list(texts)
        self._seconds = seconds
        self.requests: list[JSONObject] = []

    async def __call__(self, request: JSONObject) -> JSONObject:
        """Answer one request."""
        self.requests.append(request)
        await trio.sleep(self._seconds)
        text = self._texts.pop(0) if len(self._texts) > 1 else self._texts[0]
        return response(text)


async def no_model(request: JSONObject) -> JSONObject:
    """Fail: for runs that make no model call."""
    await trio.lowlevel.checkpoint()
    raise AssertionError(f"no model call was expected: {request}")
