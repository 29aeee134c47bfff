import pytest

from dspex.modules import (
    AdapterParseError,
    BestOfN,
    ConfigError,
    Predict,
    Prediction,
    Refine,
)
from dspex.modules.signature import Inputs
from dspex.providers.lm import Capabilities
from dspex.testing import ScriptedLM

CHAT = Capabilities(json_schema=False, tools=False)


def length(inputs: Inputs, prediction: Prediction) -> float:
    return len(prediction.answer)


def lm(*answers: str) -> ScriptedLM:
    script = [f"[[ ## answer ## ]]\n{a}" if a != "?" else "?" for a in answers]
    return ScriptedLM(script, capabilities=CHAT)


def predict() -> Predict:
    return Predict("question -> answer", repairs=0)


async def test_best_of_n_keeps_the_best_and_varies_the_runs() -> None:
    model = lm("aa", "aaaa", "a")
    program = BestOfN(predict(), n=3, reward=length, threshold=9)
    found = await program.run({"question": "?"}, lm=model)
    assert (found.answer, found.reward, found.runs) == ("aaaa", 4, 3)
    settings = [(r.temperature, r.seed) for r in model.requests]
    assert settings == [(None, None), (1.0, 1), (1.0, 2)]
    # Every run is paid for.
    assert found.usage.output_tokens == 3 * 6


async def test_best_of_n_stops_at_the_threshold() -> None:
    model = lm("a", "aaa", "never")
    program = BestOfN(predict(), n=3, reward=length, threshold=3)
    assert (await program.run({"question": "?"}, lm=model)).answer == "aaa"
    assert len(model.requests) == 2


async def test_failed_runs_count_and_the_last_error_is_raised() -> None:
    program = BestOfN(predict(), n=2, reward=length, threshold=9)
    found = await program.run({"question": "?"}, lm=lm("?", "good"))
    assert found.answer == "good"
    with pytest.raises(AdapterParseError):
        await program.run({"question": "?"}, lm=lm("?", "?"))
    with pytest.raises(ConfigError):
        BestOfN(predict(), n=0, reward=length, threshold=1)


async def test_refine_tells_what_was_lacking() -> None:
    model = lm("a", "aaaa")
    module = predict()
    program = Refine(module, n=2, reward=length, threshold=4)
    assert (await program.run({"question": "?"}, lm=model)).answer == "aaaa"
    assert "rated 1): answer: a" in model.requests[1].messages[0].text
    assert "rated" not in module.signature.instructions
