"""What runs in the hosted processes of `benchmarks.bridge`."""

import os
import time
from typing import Any


def echo(text: str) -> dict[str, str]:
    return {"text": text}


def pid() -> dict[str, int]:
    return {"pid": os.getpid()}


def burn(seconds: float) -> dict[str, float]:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        sum(range(1000))
    return {"burnt": seconds}


class Fake:
    """The fake model, without a bridge."""

    def __init__(self, text: str) -> None:
        self._text = text

    def complete(self, request: Any) -> Any:
        from dspy.lm15 import Message, Response, Usage

        return Response(
            id=None,
            model="fake",
            message=Message.assistant(self._text),
            finish_reason="stop",
            usage=Usage(input_tokens=10, output_tokens=5),
        )


def predict_alone(text: str, calls: int, pause: float = 0.0) -> dict[str, list[float]]:
    """Seconds of each call of dspy.Predict with the fake model in the same process."""
    import dspy
    import dspy.adapters.utils
    import pydantic

    # dspy as it comes, without what the bridge has it remember.
    remembering = dspy.adapters.utils.TypeAdapter
    dspy.adapters.utils.TypeAdapter = pydantic.TypeAdapter
    lm = dspy.LM("fake/fake", engine=Fake(text), cache=False, num_retries=0)
    predict = dspy.Predict("question -> answer")
    seconds: list[float] = []
    with dspy.context(lm=lm):
        for _ in range(calls):
            if pause:
                time.sleep(pause)
            began = time.perf_counter()
            predict(question="What is the capital of France?")
            seconds.append(time.perf_counter() - began)
    dspy.adapters.utils.TypeAdapter = remembering
    return {"seconds": seconds}
