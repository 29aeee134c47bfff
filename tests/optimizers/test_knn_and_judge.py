"""KNNFewShot, and a model as judge."""

import importlib
import json

import pytest

from dspex.modules import ChatAdapter, ConfigError, JSONAdapter, Predict, Prediction
from dspex.modules.optimizers import (
    Dataset,
    Evaluate,
    Example,
    KNNFewShot,
    exact_match,
    lm_judge,
)
from dspex.modules.optimizers.metrics import Judge
from dspex.providers import Request
from dspex.testing import ScriptedLM

TOPICS = {"cats": "purr", "dogs": "bark", "cows": "moo", "birds": "sing"}


def make(count: int, start: int = 0) -> Dataset:
    rows = [
        {"question": f"what do {animal} do, asks child {i}", "answer": sound}
        for i in range(start, start + count)
        for animal, sound in TOPICS.items()
    ]
    return Dataset.from_rows(rows, inputs=["question"])


def texts(request: Request) -> list[str]:
    return [m.text.split("\n")[1] for m in request.messages if m.role == "user"]


def copies_the_demos(request: Request) -> str:
    """Right only where every demo is about the animal that is asked for."""
    *demos, asked = texts(request)
    animal = asked.split()[2]
    knows = bool(demos) and all(demo.split()[2] == animal for demo in demos)
    return f"[[ ## answer ## ]]\n{TOPICS[animal] if knows else 'eat'}"


def program() -> Predict:
    return Predict("question -> answer", adapter=ChatAdapter())


@pytest.mark.parametrize("k", [1, 3])
async def test_each_input_gets_the_demos_nearest_to_it(k: int) -> None:
    student = program()
    made = await KNNFewShot(k).compile(student, make(5))
    lm = ScriptedLM(copies_the_demos)
    evaluate = Evaluate(make(3, start=50), metric=exact_match(), concurrency=4)
    assert (await evaluate(student, lm=lm)).score == 0
    assert (await evaluate(made.program, lm=lm)).score == 100
    assert {len(texts(request)) for request in lm.requests[12:]} == {k + 1}
    assert student.demos == ()


async def test_an_input_of_the_training_set_is_not_its_own_demo() -> None:
    train = make(5)
    made = await KNNFewShot(4).compile(program(), train)
    lm = ScriptedLM(copies_the_demos)
    await made.program.run(train[0].inputs(), lm=lm)
    *demos, asked = texts(lm.requests[0])
    assert asked == train[0].question
    assert len(demos) == 4
    assert asked not in demos


async def test_with_a_metric_demos_are_what_the_teacher_does_right() -> None:
    train = make(2)

    def knows_cats(request: Request) -> str:
        sound = "purr" if "cats" in texts(request)[-1] else "eat"
        return f"[[ ## answer ## ]]\n{sound}"

    lm = ScriptedLM(knows_cats)
    made = await KNNFewShot(1, metric=exact_match()).compile(program(), train, lm=lm)
    bootstrapped = [s.example for s in made.report.demos["self"] if s.bootstrapped]
    assert bootstrapped == [0, 4]
    assert made.report.calls == len(lm.requests) == 8
    assert len(made.report.demos["self"]) == 8


async def test_another_retriever_and_a_missing_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    last = KNNFewShot(1, retriever=lambda texts: lambda _, k: range(len(texts))[-k:])
    made = await last.compile(program(), make(1))
    lm = ScriptedLM(copies_the_demos)
    found = await made.program.run({"question": "what do birds do, asks me"}, lm=lm)
    assert found.answer == "sing"

    def missing(name: str) -> object:
        raise ModuleNotFoundError(name)

    monkeypatch.setattr(importlib, "import_module", missing)
    with pytest.raises(ConfigError, match=r"pip install 'dspex\[knn\]'"):
        await KNNFewShot().compile(program(), make(1))


def grades(request: Request) -> str:
    grade = 5 if '"given-right"' in request.messages[-1].text else 2
    return json.dumps({"feedback": f"a {grade}", "grade": grade})


async def test_lm_judge_gives_a_score_with_feedback_and_its_calls_count() -> None:
    def answers(request: Request) -> str:
        if "criteria" in request.messages[0].text:
            return grades(request)
        return json.dumps(
            {"answer": "given-right" if "1" in texts(request)[-1] else "?"}
        )

    rows = [{"question": f"q{i}", "answer": "x"} for i in range(2)]
    dev = Dataset.from_rows(rows, inputs=["question"])
    lm = ScriptedLM(answers)
    metric = lm_judge("It is right.", adapter=JSONAdapter())
    student = Predict("question -> answer", adapter=JSONAdapter())
    evaluation = await Evaluate(dev, metric=metric)(student, lm=lm)
    assert [o.score for o in evaluation.outcomes] == [0.25, 1.0]
    assert [o.feedback for o in evaluation.outcomes] == ["a 2", "a 5"]
    assert evaluation.calls == len(lm.requests) == 4


async def test_lm_judge_may_have_a_model_of_its_own() -> None:
    judge = ScriptedLM(grades)
    metric = Judge(lm_judge("It is right.", lm=judge, adapter=JSONAdapter()))
    example = Example(question="q", answer="x").with_inputs("question")
    score = await metric.score(example, Prediction(answer="given-right"))
    assert (score.value, score.feedback) == (1.0, "a 5")
    assert "It is right." in judge.requests[0].messages[-1].text
