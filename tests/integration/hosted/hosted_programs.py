"""Programs, metrics and types that the hosted processes import during the tests."""

import importlib
from typing import Any, Literal

import pydantic

dspy: Any = importlib.import_module("dspy")  # Any: it ships no types


class Pipeline(dspy.Module):  # type: ignore[misc]
    """Two predictors, one after the other."""

    def __init__(self) -> None:
        self.draft = dspy.Predict("question -> draft")
        self.polish = dspy.ChainOfThought("draft -> answer")

    def forward(self, question: str) -> Any:
        return self.polish(draft=self.draft(question=question).draft)


class Async(dspy.Module):  # type: ignore[misc]
    """Calls its predictor the async way."""

    def __init__(self) -> None:
        self.predict = dspy.Predict("question -> answer")

    def forward(self, question: str) -> Any:
        import asyncio

        return asyncio.run(self.predict.acall(question=question))


def kinds(image: Any, day: Any, history: Any) -> dict[str, Any]:
    """Say what arrived, and send it back."""
    names = [type(value).__name__ for value in (image, day, history)]
    return {"names": names, "image": image, "day": day, "history": history}


def rows(row: Any, wanted: Any, tool: Any) -> dict[str, Any]:
    """Take an Example, ToolCalls and a Tool, and give them and a Prediction."""
    (call,) = wanted.tool_calls
    return {
        "names": [type(value).__name__ for value in (row, wanted, tool)],
        "inputs": sorted(row.inputs().keys()),
        "row": row,
        "prediction": dspy.Prediction(answer=row.answer),
        "wanted": wanted,
        "tool": tool,
        "told": tool(**call.args),
    }


class Place(pydantic.BaseModel):
    city: str
    people: int


def differences() -> dict[str, list[str]]:
    """Say where a shortcut of the host gives anything but what dspy itself gives."""
    found: list[str] = []

    def compare(what: str, function: Any, *arguments: Any) -> None:
        expected = function.__wrapped__(*arguments)
        found.extend(what for _ in range(2) if function(*arguments) != expected)

    types = {"Place": Place}
    signatures = [
        dspy.Signature("question -> answer"),
        dspy.Signature(
            "text: str, n: int -> place: Place, ok: bool", custom_types=types
        ),
        dspy.Signature("question, history: dspy.History -> answer: list[str]"),
        dspy.Signature(
            {
                "text": (str, dspy.InputField(desc="What was said.")),
                "picture": (dspy.Image, dspy.InputField()),
                "verdict": (Literal["good", "bad"], dspy.OutputField()),
            },
            "Judge it.",
        ),
    ]
    execution = importlib.import_module("dspy.clients.execution")
    for signature in signatures:
        for instructions in (signature.instructions, "Say it in one word."):
            # In place, as somebody might: the message that is kept is not that one.
            signature.instructions = instructions
            meta: Any = signature.__class__  # Any: dspy's metaclass
            for kind in ("input", "output"):
                compare(kind, meta._get_fields_with_type, signature, kind)
            for adapter in (dspy.ChatAdapter(), dspy.JSONAdapter(), dspy.XMLAdapter()):
                compare(
                    "system", type(adapter).format_system_message, adapter, signature
                )
        field = signature.output_fields.popitem()[1]  # of a copy
        field.json_schema_extra["desc"] = "in place"
        system = dspy.ChatAdapter.format_system_message
        compare("a changed field", system, dspy.ChatAdapter(), signature)
    talk = [
        {"role": "system", "content": "Be short."},
        {"role": "user", "content": "Hello"},
        {"role": "assistant", "content": "Hi"},
        {"role": "user", "content": "?"},
    ]
    parts = [{"role": "user", "content": [{"type": "text", "text": "?"}]}]
    for messages in (talk, talk[:2], talk[1:], talk[:1] + parts):
        for settings in ({}, {"temperature": 0.5, "stop": ["x"]}):
            body = {"model": "some/model", "messages": messages, **settings}
            compare("request", execution.request_from_openai_chat, body)
    return {"differences": found}


def exact(example: Any, prediction: Any, trace: Any = None) -> bool:
    """The metric: the answer is the expected one."""
    return bool(example.answer == prediction.answer)


def feedback(
    example: Any,
    prediction: Any,
    trace: Any = None,
    pred_name: Any = None,
    pred_trace: Any = None,
) -> Any:
    """The same for GEPA, which wants words with the score."""
    right = example.answer == prediction.answer
    words = "right" if right else f"wrong: it should be {example.answer}"
    return dspy.Prediction(score=float(right), feedback=words)


class CallsTools(dspy.Module):  # type: ignore[misc]
    """Lets the model choose tools by its own protocol, and gives its choice."""

    def __init__(self, tools: Any) -> None:
        self.tools = tools
        self.predict = dspy.Predict(
            dspy.Signature(
                "question: str, tools: list[dspy.Tool] -> outputs: dspy.ToolCalls"
            )
        )

    def forward(self, question: str) -> Any:
        adapter = dspy.ChatAdapter(use_native_function_calling=True)
        with dspy.context(adapter=adapter):
            return self.predict(question=question, tools=self.tools)


class Twice(dspy.Module):  # type: ignore[misc]
    """Answers, and then answers better."""

    def __init__(self, signature: Any) -> None:
        self.draft = dspy.Predict(signature)
        self.polish = dspy.Predict("question, draft -> answer, reason")

    def forward(self, question: str) -> Any:
        draft = self.draft(question=question).answer
        return self.polish(question=question, draft=draft)


def shout(question: str) -> dict[str, str]:
    """Answer without a model."""
    return {"answer": question.upper()}
