"""BootstrapFewShot and its kin on models whose answers are known. F1 to F3."""

import math
import random

import pytest
import trio
import trio.testing

from dspex.modules import (
    ChatAdapter,
    ConfigError,
    Module,
    Predict,
    Prediction,
    dump_dspy_state,
)
from dspex.modules.optimizers import (
    BootstrapFailedError,
    BootstrapFewShot,
    BootstrapFewShotWithRandomSearch,
    CompileError,
    Dataset,
    DatasetError,
    Evaluate,
    Example,
    LabeledFewShot,
    compare_evaluations,
    exact_match,
)
from dspex.providers import Budget, Budgeted, Request
from dspex.testing import ScriptedLM


def texts(request: Request) -> list[str]:
    return [m.text.split("\n")[1] for m in request.messages if m.role == "user"]


def answer(text: object) -> str:
    return f"[[ ## answer ## ]]\n{text}\n\n[[ ## completed ## ]]"


def make(count: int = 24, start: int = 0) -> Dataset:
    rows = [
        {"question": f"{['even', 'odd'][i % 2]} {i}", "answer": f"{i}!"}
        for i in range(start, start + count)
    ]
    return Dataset.from_rows(rows, inputs=["question"])


def right(request: Request) -> str:
    return answer(texts(request)[-1].split()[1] + "!")


def needs_a_demo(request: Request) -> str:
    """Answer right by chance (every third), or where a demo is of the same kind."""
    *demos, asked = texts(request)
    kind, number = asked.split()
    if int(number) % 3 == 0 or any(demo.startswith(kind) for demo in demos):
        return right(request)
    return answer("?")


def fails_on_thirds(request: Request) -> str | Exception:
    number = int(texts(request)[-1].split()[1])
    return RuntimeError(f"lost {number}") if number % 3 == 1 else right(request)


def program() -> Predict:
    return Predict("question -> answer", adapter=ChatAdapter())


class Shaky:
    """A model whose answers come in any order."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self.inner = ScriptedLM(fails_on_thirds)
        self.name = self.inner.name
        self.capabilities = self.inner.capabilities

    async def complete(
        self, request: object, *, timeout: float | None = None
    ) -> object:
        await trio.sleep(self._random.random())
        return await self.inner.complete(request)  # type: ignore[arg-type]


async def test_f1_compiling_raises_the_score_on_unseen_examples() -> None:
    lm = ScriptedLM(needs_a_demo)
    optimizer = BootstrapFewShot(metric=exact_match(), max_labeled_demos=0)
    student = program()
    made = await optimizer.compile(student, make(), lm=lm)
    evaluate = Evaluate(make(60, start=100), metric=exact_match())
    before, after = await evaluate(student, lm=lm), await evaluate(made.program, lm=lm)
    assert before.score == pytest.approx(100 / 3)
    assert after.score == 100
    assert compare_evaluations(before, after).test.p < 1e-9
    assert made.report.bootstrapped == 4
    assert [source.score for source in made.report.demos["self"]] == [1, 1, 1, 1]


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("concurrency", [1, 3, 16])
async def test_f2_same_demos_at_any_concurrency(
    autojump_clock: trio.testing.MockClock, concurrency: int, seed: int
) -> None:
    student = program()
    before = dump_dspy_state(student)
    lm = Shaky(seed)
    optimizer = BootstrapFewShot(metric=exact_match(), concurrency=concurrency)
    made = await optimizer.compile(student, make(), lm=lm)  # type: ignore[arg-type]
    sources = made.report.demos["self"]
    assert [s.example for s in sources if s.bootstrapped] == [0, 2, 3, 5]
    labeled = [s.example for s in sources if not s.bootstrapped]
    assert labeled == [8, 23, 22, 7, 19, 15, 16, 1, 6, 21, 13, 18]
    assert len(made.program.demos) == 16
    assert all(demo.get("augmented") for demo in made.program.demos[:4])
    assert made.report.errors == 2
    assert made.report.extra_examples <= concurrency
    # No example was its own demo, and the student is as it was.
    assert all(len(t) == len(set(t)) for t in map(texts, lm.inner.requests))
    assert dump_dspy_state(student) == before
    assert (student.compiled, made.program.compiled) == (False, True)


@pytest.mark.parametrize("max_extra", [0, 2, 16])
async def test_no_more_than_max_extra_examples_run_for_nothing(
    autojump_clock: trio.testing.MockClock, max_extra: int
) -> None:
    lm = ScriptedLM(right, delay=1)
    optimizer = BootstrapFewShot(
        metric=exact_match(), concurrency=16, max_extra=max_extra
    )
    made = await optimizer.compile(program(), make(), lm=lm)
    assert len(lm.requests) <= 4 + max_extra
    assert made.report.extra_examples <= max_extra
    assert made.report.seconds == pytest.approx(1)


async def test_f3_a_third_of_the_examples_raise() -> None:
    lm = ScriptedLM(fails_on_thirds)
    optimizer = BootstrapFewShot(
        metric=exact_match(), max_bootstrapped_demos=16, max_errors=9
    )
    made = await optimizer.compile(program(), make(), lm=lm)
    assert (made.report.errors, made.report.bootstrapped) == (8, 16)


@pytest.mark.parametrize("concurrency", [1, 8])
async def test_f3_too_many_errors_stop_it(concurrency: int) -> None:
    student = program()
    before = dump_dspy_state(student)
    optimizer = BootstrapFewShot(
        metric=exact_match(),
        max_bootstrapped_demos=16,
        max_errors=3,
        concurrency=concurrency,
    )
    with pytest.raises(BootstrapFailedError, match="example 7: RuntimeError: lost 7"):
        await optimizer.compile(student, make(), lm=ScriptedLM(fails_on_thirds))
    assert dump_dspy_state(student) == before


@pytest.mark.parametrize("seconds", [0.5, 1.5, 2.5, 3.5])
async def test_f3_a_compile_that_is_cancelled_leaves_the_student(
    autojump_clock: trio.testing.MockClock,
    seconds: float,
) -> None:
    student = program()
    before = dump_dspy_state(student)
    optimizer = BootstrapFewShot(metric=exact_match(), concurrency=1)
    with trio.move_on_after(seconds) as scope:
        await optimizer.compile(student, make(), lm=ScriptedLM(right, delay=1))
    assert scope.cancelled_caught
    assert dump_dspy_state(student) == before


@pytest.mark.parametrize("bad", [math.nan, None])
async def test_metric_without_a_score_is_an_error_of_its_example(bad: object) -> None:
    def metric(example: Example, prediction: Prediction) -> object:
        return bad if example.answer == "0!" else True

    optimizer = BootstrapFewShot(metric=metric)
    made = await optimizer.compile(program(), make(), lm=ScriptedLM(right))
    assert made.report.errors == 1
    assert made.report.demos["self"][0].example == 1


async def test_budget_that_ends_in_the_middle_keeps_what_was_found() -> None:
    lm = Budgeted(ScriptedLM(right), Budget(requests=2))
    optimizer = BootstrapFewShot(metric=exact_match(), concurrency=1)
    made = await optimizer.compile(program(), make(), lm=lm)
    assert made.report.bootstrapped == 2
    assert made.report.stopped is not None
    assert len(made.program.demos) == 16


async def test_later_rounds_ask_otherwise() -> None:
    def second_time(request: Request) -> str:
        return right(request) if request.temperature == 1.0 else answer("?")

    lm = ScriptedLM(second_time)
    made = await BootstrapFewShot(metric=exact_match(), max_rounds=2).compile(
        program(), make(), lm=lm
    )
    assert (made.report.bootstrapped, made.report.attempts) == (4, 8)


class TwoParts(Module):
    def __init__(self) -> None:
        self.frozen = Sub()
        self.frozen.compiled = True
        self.free = program()

    async def forward(self, question: str) -> Prediction:
        await self.frozen(question=question)
        return await self.free(question=question)


class Sub(Module):
    def __init__(self) -> None:
        self.inner = Predict(
            "question -> answer", adapter=ChatAdapter(), demos=[dict(make(1)[0])]
        )

    async def forward(self, question: str) -> Prediction:
        return await self.inner(question=question)


async def test_compiled_parts_stay_frozen() -> None:
    made = await BootstrapFewShot(metric=exact_match()).compile(
        TwoParts(), make(), lm=ScriptedLM(right)
    )
    assert len(made.program.frozen.inner.demos) == 1
    assert list(made.report.demos) == ["free"]
    assert len(made.program.free.demos) == 16


async def test_what_cannot_be_compiled_is_told() -> None:
    optimizer = BootstrapFewShot(metric=exact_match())
    with pytest.raises(DatasetError, match="no example to bootstrap from"):
        await optimizer.compile(program(), [])
    student = program()
    student.compiled = True
    with pytest.raises(CompileError, match="compiled already"):
        await optimizer.compile(student, make())
    with pytest.raises(CompileError, match="predictors self, and the teacher free"):
        await optimizer.compile(program(), make(), teacher=TwoParts())
    other = Predict("question -> answer: int")
    with pytest.raises(CompileError, match="self has the signature"):
        await optimizer.compile(program(), make(), teacher=other)
    with pytest.raises(ConfigError, match="max_labeled_demos"):
        BootstrapFewShot(max_labeled_demos=-1)


async def test_labeled_few_shot_draws_as_dspy() -> None:
    made = await LabeledFewShot(k=3).compile(program(), make())
    indices = [source.example for source in made.report.demos["self"]]
    assert indices == random.Random(0).sample(range(24), 3)
    assert [make()[i] for i in indices] == list(made.program.demos)


async def test_random_search_keeps_the_best_on_the_validation_set() -> None:
    lm = ScriptedLM(needs_a_demo)
    search = BootstrapFewShotWithRandomSearch(
        metric=exact_match(), max_labeled_demos=0, num_candidates=5, stop_at_score=100
    )
    made = await search.compile(program(), make(), lm=lm)
    assert made.candidates[0].score is not None
    assert made.candidates[0].score < 50
    assert made.candidates[-1].score == 100
    assert len(made.candidates) < 8
    assert made.program is made.candidates[-1].compiled.program  # type: ignore[union-attr]
    assert made.report.calls == len(lm.requests)
    with pytest.raises(DatasetError, match="validation set, example 1"):
        await search.compile(program(), make(), valset=make(2), lm=lm)


async def test_random_search_prefers_no_demos_to_demos_that_do_not_help() -> None:
    search = BootstrapFewShotWithRandomSearch(metric=exact_match(), num_candidates=1)
    made = await search.compile(program(), make(), lm=ScriptedLM(right))
    assert made.program.demos == ()
    assert [c.score for c in made.candidates] == [100, 100, 100, 100]


@pytest.mark.parametrize("requests", [5, 20, 40])
async def test_a_budget_that_ends_a_search_leaves_the_best_so_far(
    requests: int,
) -> None:
    search = BootstrapFewShotWithRandomSearch(
        metric=exact_match(), max_labeled_demos=0, num_candidates=5
    )
    lm = ScriptedLM(needs_a_demo)
    made = await search.compile(
        program(), make(), lm=Budgeted(lm, Budget(requests=requests))
    )
    assert made.report.stopped is not None
    assert len(lm.requests) == requests
    # Up to `concurrency` of them were under way, and have no answer.
    assert requests - 8 <= made.report.calls <= requests
    # The one that the budget ended has no score, so that it is not taken for better.
    assert made.candidates[-1].score is None
    scores = [it.score for it in made.candidates if it.score is not None]
    kept = next(it for it in made.candidates if it.compiled.program is made.program)  # type: ignore[union-attr]
    assert kept.score == max(scores, default=None)
    evaluate = Evaluate(make(6, start=100), metric=exact_match())
    assert (await evaluate(made.program, lm=ScriptedLM(right))).score == 100
