import pytest

from dspex.modules import (
    ChainOfThought,
    ConfigError,
    OutputField,
    Signature,
    StepValidator,
    split_steps,
)
from dspex.providers import Choice, Response, Usage
from dspex.providers.lm import Capabilities
from dspex.testing import ScriptedLM

CHAT = Capabilities(json_schema=False, tools=False, max_n=8)


def says(**outputs: object) -> str:
    return "\n".join(f"[[ ## {name} ## ]]\n{value}" for name, value in outputs.items())


async def test_d1_reasoning_comes_first_in_one_call() -> None:
    lm = ScriptedLM(
        ['{"reasoning": "1. 15% is 0.15\\n2. times 80", "answer": 12}'],
    )
    found = await ChainOfThought("question -> answer: int", lm=lm)(question="15% of 80")
    assert found.reasoning == "1. 15% is 0.15\n2. times 80"
    assert found.steps == ("15% is 0.15", "times 80")
    assert found.answer == 12
    assert len(lm.requests) == 1
    schema = lm.requests[0].output_schema
    assert schema is not None
    assert list(schema.schema["properties"]) == ["reasoning", "answer"]  # type: ignore[call-overload]
    system = lm.requests[0].messages[0].text
    assert system.index('"reasoning"') < system.index('"answer"')


@pytest.mark.parametrize(
    ("reasoning", "steps"),
    [
        ("1. a\n2. b\n3. c", ("a", "b", "c")),
        ("1) a\n2) b", ("a", "b")),
        ("Intro:\n- a\n- b\n  more b", ("a", "b more b")),
        ("* a\n* b", ("a", "b")),
        ("Step 1: a\nStep 2: b", ("a", "b")),
        ("**Step 1:** a\n**Step 2:** b", ("a", "b")),
        ("First, a.\nThen, b.\nFinally, c.", ("First, a.", "Then, b.", "Finally, c.")),
        ("First, a. Then, b. Finally, c.", ("First, a.", "Then, b.", "Finally, c.")),
        ("One paragraph\nof two lines.\n\nAnother.", (
            "One paragraph of two lines.", "Another.")),
        ("Prose without any marks. It goes on.", (
            "Prose without any marks. It goes on.",)),
        ("The year 1999. was good", ("The year 1999. was good",)),
        ("", ()),
        ("  \n ", ()),
    ],
)  # fmt: skip
def test_d1_steps_of_a_reasoning(reasoning: str, steps: tuple[str, ...]) -> None:
    assert split_steps(reasoning) == steps


def test_step_validator_counts() -> None:
    validator = StepValidator(min_steps=2, max_steps=3)
    assert validator.problem("1. a") == "the reasoning has 1 steps, at least 2 are due"
    assert validator.problem("1. a\n2. b") is None
    problem = validator.problem("1. a\n2. b\n3. c\n4. d")
    assert problem == "the reasoning has 4 steps, at most 3 may be"


async def test_too_few_steps_are_asked_for_again() -> None:
    lm = ScriptedLM(
        [says(reasoning="short", answer="x"), says(reasoning="1. a\n2. b", answer="y")],
        capabilities=CHAT,
    )
    module = ChainOfThought("q -> answer", lm=lm, step_validator=StepValidator(2))
    assert (await module(q="?")).answer == "y"
    assert "at least 2 are due" in lm.requests[1].messages[-1].text


async def test_majority_of_the_samples_wins() -> None:
    answers = ["12", "13", " 12 "]
    choices = tuple(
        Choice(says(reasoning=f"r{i}", answer=a)) for i, a in enumerate(answers)
    )
    lm = ScriptedLM([Response(choices, Usage(), "m")], capabilities=CHAT)
    found = await ChainOfThought("q -> answer", lm=lm, samples=3)(q="?")
    assert (found.answer, found.reasoning) == ("12", "r0")
    assert found.agreement == pytest.approx(2 / 3)
    assert len(found.completions) == 3
    assert lm.requests[0].n == 3
    with pytest.raises(ConfigError, match="samples"):
        ChainOfThought("q -> answer", samples=0)


def test_reasoning_field_can_be_given() -> None:
    module = ChainOfThought(
        Signature("q -> answer", "Do it."), reasoning=OutputField(desc="think hard")
    )
    signature = module.predict.signature
    assert list(signature.output_fields) == ["reasoning", "answer"]
    assert signature.output_fields["reasoning"].desc == "think hard"
    assert signature.instructions == "Do it."
