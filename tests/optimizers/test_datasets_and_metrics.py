"""Examples, data sets, metrics and the arithmetic of scores."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dspex.modules import Prediction
from dspex.modules.optimizers import (
    Dataset,
    DatasetError,
    Example,
    Metric,
    MetricError,
    Score,
    answer_in_text,
    confidence_interval,
    exact_match,
    f1,
    numeric,
    paired_test,
    per_field,
    refuse_leakage,
)
from dspex.modules.optimizers.metrics import Judge


def make(count: int) -> Dataset:
    rows = [{"question": f"q{i}", "answer": "yn"[i % 4 == 0]} for i in range(count)]
    return Dataset.from_rows(rows, inputs=["question"])


def test_example_knows_its_inputs_and_labels() -> None:
    example = Example(question="q", answer="a").with_inputs("question")
    assert example.inputs() == {"question": "q"}
    assert example.labels() == {"answer": "a"}
    assert example.answer == example["answer"] == "a"
    assert example == Example(question="q", answer="a")
    with pytest.raises(DatasetError, match="with_inputs"):
        Example(question="q").inputs()
    with pytest.raises(DatasetError, match="has no value 'nope'"):
        example.with_inputs("nope")


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("a.jsonl", '{"question": "q"}\n{"question"', "a.jsonl:2: is no JSON"),
        ("a.jsonl", '\n["q"]\n', "a.jsonl:2: is no object"),
        ("a.jsonl", '{"text": "q"}\n', "a.jsonl:1: has no 'question'"),
        ("a.csv", "question,answer\nq\n", "a.csv:2: has 1 values, and the header 2"),
        ("a.csv", "question,question\nq,q\n", "names a column twice"),
        ("a.csv", "", "is empty"),
        ("a.txt", "q", "neither a .jsonl nor a .csv"),
    ],
)
def test_bad_row_is_named(
    tmp_path: Path, name: str, content: str, problem: str
) -> None:
    path = tmp_path / name
    path.write_text(content, encoding="utf-8")
    with pytest.raises(DatasetError, match=problem):
        Dataset.load(path, inputs=["question"])


def test_jsonl_and_csv_give_the_same_examples(tmp_path: Path) -> None:
    lines = tmp_path / "a.jsonl"
    lines.write_text('{"question": "q, \\"1\\"\\u2028", "answer": "é"}\n\n', "utf-8")
    table = tmp_path / "a.csv"
    table.write_text('question,answer\n"q, ""1""\u2028",é\n', encoding="utf-8")
    loaded = [Dataset.load(path, inputs=["question"]) for path in (lines, table)]
    assert list(loaded[0]) == list(loaded[1])
    assert loaded[0][0].inputs() == {"question": 'q, "1"\u2028'}
    with pytest.raises(DatasetError, match="cannot be read: No such file"):
        Dataset.load(tmp_path / "b.csv", inputs=["question"])


def test_split_is_the_same_for_a_seed_and_shares_nothing() -> None:
    data = Dataset([*make(40), *make(40)])
    train, dev = data.split(0.5, 10, seed=1)
    assert (len(train), len(dev)) == (20, 10)
    assert [list(part) for part in data.split(0.5, 10, seed=1)] == [
        list(train),
        list(dev),
    ]
    assert list(data.split(0.5, seed=2)[0]) != list(train)
    refuse_leakage("dev set", train, dev)
    with pytest.raises(DatasetError, match=r"dev set, example 1: .* training set too"):
        refuse_leakage("dev set", train, train[3:4])
    with pytest.raises(DatasetError, match="there are 40 different"):
        data.split(30, 11, seed=0)


def test_split_keeps_the_proportions_of_a_label() -> None:
    train, dev = make(40).split(8, 12, seed=5, balance="answer")
    assert sum(example.answer == "n" for example in train) == 2
    assert sum(example.answer == "n" for example in dev) == 3


@pytest.mark.parametrize(
    ("metric", "gold", "given", "score"),
    [
        (exact_match(), "The Paris!", "paris", 1),
        (exact_match(), ["Rome", "Paris"], "paris", 1),
        (exact_match(), "Paris", "Parisian", 0),
        (answer_in_text(), "Paris", "It is Paris, of course", 1),
        (answer_in_text(), "art", "a party", 0),
        (f1(), "one two", "two three", 0.5),
        (f1(), "one", "four", 0),
        (numeric(), 1200, "It is 1,200.", 1),
        (numeric(tolerance=0.5), 3, "3.4", 1),
        (numeric(tolerance=0.5), 3, "3.6", 0),
        (numeric(), 3, "three", 0),
        (per_field({"answer": exact_match()}), "a b", "b", 1),
    ],
)
async def test_metric(metric: Metric, gold: Any, given: str, score: float) -> None:
    found = await Judge(metric).score(Example(answer=gold), Prediction(answer=given))
    assert found.value == pytest.approx(score)


def _always(example: Example, prediction: Prediction) -> bool:
    return True


def _with_trace(example: Example, prediction: Prediction, trace: list[object]) -> int:
    return len(trace)


def _with_all(*given: object) -> int:
    return len(given)


def _as_prediction(example: Example, prediction: Prediction) -> Prediction:
    return Prediction(score=0.25)


async def _async_metric(example: Example, prediction: Prediction) -> Score:
    return Score(0.5, "so so")


@pytest.mark.parametrize(
    ("metric", "score"),
    [
        (_async_metric, Score(0.5, "so so")),
        (_always, Score(1.0)),
        (_with_trace, Score(0.0)),
        (_with_all, Score(3.0)),
        (_as_prediction, Score(0.25)),
    ],
)
async def test_what_a_metric_may_be(metric: Metric, score: Score) -> None:
    assert await Judge(metric).score(Example(), Prediction(), []) == score


@pytest.mark.parametrize("value", [math.nan, math.inf, None, "good", Score(math.nan)])
async def test_what_is_no_score_is_an_error(value: object) -> None:
    give: Callable[[Example, Prediction], object] = lambda e, p: value  # noqa: E731
    with pytest.raises(MetricError, match="a finite number, a bool or a Score"):
        await Judge(give).score(Example(), Prediction())


def test_confidence_interval() -> None:
    # Wilson's interval for 8 of 10.
    assert confidence_interval([1.0] * 8 + [0.0] * 2) == pytest.approx(
        (0.4902, 0.9433), abs=1e-4
    )
    assert confidence_interval([0.4, 0.6] * 50) == pytest.approx(
        (0.4803, 0.5197), abs=1e-4
    )


def test_paired_test_counts_what_changed() -> None:
    # 15 better, 3 worse of 120: McNemar's exact test.
    before = [0.0] * 15 + [1.0] * 3 + [1.0] * 102
    after = [1.0] * 15 + [0.0] * 3 + [1.0] * 102
    found = paired_test(before, after)
    assert (found.better, found.worse, found.test) == (15, 3, "mcnemar")
    assert found.p == pytest.approx(0.0075, abs=1e-4)
    assert found.difference == pytest.approx(0.1)
    assert found.interval[0] > 0
    assert "better by 10.0 points" in str(found)
    assert "worse by 10.0 points" in str(paired_test(after, before))
    assert paired_test(after, after).p == 1.0
    assert str(paired_test(after, after)) == (
        "no difference: the same score on each of 120 examples"
    )
    little = paired_test(before, [1.0] * 3 + before[3:])
    assert not little.is_significant
    assert str(little).startswith("no difference found: +2.5 points (95 % CI 0.0 to")
    assert "3 examples better and 0 worse of 120, mcnemar p = 0.25" in str(little)
    shades = paired_test([0.1, 0.2, 0.3] * 9, [0.3, 0.5, 0.6] * 9)
    assert shades.test == "permutation"
    assert shades.p < 0.01
    with pytest.raises(ValueError, match="as many scores of both"):
        paired_test([1.0], [])
