"""Evaluate: every outcome kept, whatever fails."""

import csv
import json
from pathlib import Path

import pytest
import trio
import trio.testing

from dspex.modules import (
    ChatAdapter,
    CodeExitError,
    ConfigError,
    Module,
    Predict,
    Prediction,
)
from dspex.modules.optimizers import (
    Dataset,
    DatasetError,
    Evaluate,
    EvaluationFailedError,
    Example,
    ItemTimeoutError,
    Outcome,
    compare,
    exact_match,
)
from dspex.providers import Budget, Budgeted, Price, Request
from dspex.testing import ScriptedLM

COUNT = 12


def question(request: Request) -> str:
    return request.messages[-1].text.split("\n")[1]


def answers(request: Request) -> str | Exception:
    number = int(question(request))
    if number % 3 == 2:
        return RuntimeError(f"no answer to {number}")
    return f"[[ ## answer ## ]]\n{number if number % 3 else 'wrong'}"


def make(count: int = COUNT) -> Dataset:
    rows = [{"question": str(i), "answer": str(i)} for i in range(count)]
    return Dataset.from_rows(rows, inputs=["question"])


def program(**more: object) -> Predict:
    return Predict("question -> answer", adapter=ChatAdapter(), **more)  # type: ignore[arg-type]


async def test_a_metric_that_exits_costs_its_own_outcome_only() -> None:
    def metric(example: Example, prediction: Prediction) -> float:
        if example["question"] == "1":
            raise SystemExit(3)
        return 1.0

    evaluate = Evaluate(make(3), metric=metric, max_errors=None)
    found = await evaluate(program(), lm=ScriptedLM(lambda _: "[[ ## answer ## ]]\nx"))
    errors = [outcome.error for outcome in found.outcomes]
    assert [type(error) for error in errors] == [type(None), CodeExitError, type(None)]
    assert "the metric 'metric' raised SystemExit: 3" in str(errors[1])


async def test_outcomes_keep_their_order_and_their_errors(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    seen: list[Outcome] = []
    evaluate = Evaluate(
        make(),
        metric=exact_match(),
        concurrency=5,
        max_errors=None,
        on_outcome=seen.append,
    )
    found = await evaluate(program(), lm=ScriptedLM(answers, delay=1))
    assert [o.index for o in found.outcomes] == list(range(COUNT))
    assert [o.score for o in found.outcomes] == [0, 1, 0] * 4
    assert [o.status for o in found.outcomes] == ["scored", "scored", "failed"] * 4
    assert str(found.outcomes[2].error) == "no answer to 2"
    assert found.score == pytest.approx(100 / 3)
    assert (found.errors, found.calls, len(seen)) == (4, 8, COUNT)
    assert found.seconds == pytest.approx(3)
    assert found.worst(4)[0].status == "failed"
    assert "33.3 (95 % CI" in str(found)
    found.save_jsonl(tmp_path / "a.jsonl")
    lines = (tmp_path / "a.jsonl").read_text(encoding="utf-8").splitlines()
    assert json.loads(lines[2])["error"] == "RuntimeError: no answer to 2"
    assert json.loads(lines[1])["prediction"] == {"answer": "1"}
    found.save_csv(tmp_path / "a.csv")
    with (tmp_path / "a.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert rows[1]["example.question"] == rows[1]["prediction.answer"] == "1"


async def test_error_budget_ends_it_with_what_was_done() -> None:
    evaluate = Evaluate(make(), metric=exact_match(), concurrency=1, max_errors=2)
    with pytest.raises(EvaluationFailedError, match="2 of 6 examples failed") as caught:
        await evaluate(program(), lm=ScriptedLM(answers))
    assert caught.value.evaluation.scores == [0, 1, 0, 0, 1, 0]
    assert str(caught.value.cause) == "no answer to 5"


async def test_metric_that_hangs_or_raises_fails_its_example_only(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async def metric(example: Example, prediction: Prediction) -> bool:
        if example.answer == "1":
            await trio.sleep_forever()
        if example.answer == "3":
            raise ValueError("bad metric")
        return True

    evaluate = Evaluate(make(5), metric=metric, timeout=7)
    lm = ScriptedLM(lambda request: "[[ ## answer ## ]]\nx")
    found = await evaluate(program(), lm=lm)
    assert [o.score for o in found.outcomes] == [1, 0, 1, 0, 1]
    assert found.outcomes[1].status == "timed_out"
    assert isinstance(found.outcomes[1].error, ItemTimeoutError)
    assert str(found.outcomes[3].error) == "bad metric"


async def test_a_budget_counts_the_calls_of_every_model() -> None:
    class TwoModels(Module):
        def __init__(self) -> None:
            self.own = program(lm=ScriptedLM(lambda _: "[[ ## answer ## ]]\nx"))
            self.given = program()

        async def forward(self, question: str) -> Prediction:
            await self.own(question=question)
            return await self.given(question=question)

    budget = Budget(requests=6, prices={"scripted:model": Price(1e6, 0, 0)})
    lm = ScriptedLM(lambda _: "[[ ## answer ## ]]\nx")
    evaluate = Evaluate(make(), metric=exact_match(), concurrency=1, budget=budget)
    found = await evaluate(TwoModels(), lm=lm)
    assert len(found.done) == len(lm.requests) == 3
    assert found.stopped is not None
    assert "budget of 6 requests" in found.stopped
    assert found.calls == budget.requests == 6
    assert budget.cost == pytest.approx(found.usage.input_tokens)


async def test_used_up_budget_ends_it_without_an_error() -> None:
    lm = Budgeted(ScriptedLM(lambda r: "[[ ## answer ## ]]\nx"), Budget(requests=4))
    evaluate = Evaluate(make(), metric=exact_match(), concurrency=1)
    found = await evaluate(program(), lm=lm)
    assert len(found.done) == len(found.scores) == 4
    assert [o.status for o in found.outcomes[4:]] == ["skipped"] * 8
    assert found.stopped is not None
    assert "budget of 4 requests" in found.stopped


async def test_an_example_never_sees_itself_among_the_demos() -> None:
    data = make(4)
    lm = ScriptedLM(lambda request: "[[ ## answer ## ]]\nx")
    tested = program(demos=list(data))
    await Evaluate(data, metric=exact_match())(tested, lm=lm)
    for request in lm.requests:
        texts = [m.text.split("\n")[1] for m in request.messages if m.role == "user"]
        assert sorted(texts) == ["0", "1", "2", "3"]
    assert len(tested.demos) == 4


async def test_compare_says_how_sure_it_is() -> None:
    good = ScriptedLM(lambda request: f"[[ ## answer ## ]]\n{question(request)}")
    bad = ScriptedLM(lambda request: "[[ ## answer ## ]]\nx")
    found = await compare(
        program(lm=bad), program(lm=good), make(), metric=exact_match()
    )
    assert (found.test.better, found.test.worse) == (12, 0)
    assert found.test.p == pytest.approx(2 / 2**12)
    assert str(found).startswith("0.0 -> 100.0: better by 100.0 points")


def test_bad_settings_are_named() -> None:
    with pytest.raises(DatasetError, match="no example to evaluate"):
        Evaluate([], metric=exact_match())
    with pytest.raises(DatasetError, match="with_inputs"):
        Evaluate([Example(question="q")], metric=exact_match())
    with pytest.raises(ConfigError, match="concurrency"):
        Evaluate(make(), metric=exact_match(), concurrency=0)
