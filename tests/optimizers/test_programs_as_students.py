"""Optimizers on programs of steps, on ReAct, on assertions, and on code around them."""

import json

import pytest
import trio.testing

from dspex.modules import (
    ChatAdapter,
    Module,
    Predict,
    Prediction,
    ReAct,
    ensure,
)
from dspex.modules.hosted import HostedBackend
from dspex.modules.native import NativeBackend
from dspex.modules.optimizers import (
    BootstrapFewShot,
    BootstrapFewShotWithRandomSearch,
    Dataset,
    Evaluate,
    ProgramModule,
    exact_match,
)
from dspex.providers import Budget, Budgeted, Request
from dspex.runtime.engine import Program
from dspex.testing import ScriptedLM
from dspex.worker.open_runtime import open_runtime

PROGRAM = """
name: zones
steps:
  recall:
    module: ChainOfThought
    signature: "town -> fact"
    config: {adapter: json}
  answer:
    module: Predict
    signature: "town, fact -> zone"
    config: {adapter: json}
outputs: {zone: answer.zone}
"""


def make(count: int, start: int = 0) -> Dataset:
    rows = [{"town": f"Town {i}", "zone": str(i)} for i in range(start, start + count)]
    return Dataset.from_rows(rows, inputs=["town"])


def number_in(request: Request) -> int:
    users = [m.text for m in request.messages if m.role == "user"]
    return int(users[-1].split("Town ")[1].split()[0])


def knows_even_towns(request: Request) -> str:
    number = number_in(request)
    if '"reasoning"' in request.messages[0].text:
        return json.dumps({"reasoning": f"I know {number}", "fact": f"f{number}"})
    return json.dumps({"zone": str(number) if number % 2 == 0 else "?"})


@pytest.mark.parametrize("concurrency", [1, 8])
async def test_a_program_of_steps_is_compiled_and_given_back(concurrency: int) -> None:
    lm = ScriptedLM(knows_even_towns)
    program = Program.from_text(PROGRAM)
    async with open_runtime(lm) as runtime:
        native, hosted = runtime.backend("native"), runtime.backend("python")
        assert isinstance(native, NativeBackend)
        assert isinstance(hosted, HostedBackend)
        student = ProgramModule(program, native=native, hosted=hosted)
        optimizer = BootstrapFewShot(
            metric=exact_match("zone"), max_labeled_demos=0, concurrency=concurrency
        )
        made = await optimizer.compile(student, make(12), lm=lm)
        better = made.program.to_program()
        run = await runtime.run(better, town="Town 20")
    assert {
        name: [s.example for s in it] for name, it in made.report.demos.items()
    } == {
        "steps['recall'].predict": [0, 2, 4, 6],
        "steps['answer']": [0, 2, 4, 6],
    }
    assert better.steps["recall"].demos[1] == {
        "town": "Town 2",
        "reasoning": "I know 2",
        "fact": "f2",
    }
    assert better.steps["answer"].demos[1] == {
        "town": "Town 2",
        "fact": "f2",
        "zone": "2",
    }
    assert student.to_program() == program
    assert run.outputs == {"zone": "20"}
    assert made.report.extra_examples <= concurrency
    assert made.report.usage.total_tokens > 0


async def test_a_budget_that_ends_inside_a_step_is_no_error() -> None:
    lm = ScriptedLM(knows_even_towns)
    async with open_runtime(lm) as runtime:
        native, hosted = runtime.backend("native"), runtime.backend("python")
        assert isinstance(native, NativeBackend)
        assert isinstance(hosted, HostedBackend)
        student = ProgramModule(
            Program.from_text(PROGRAM), native=native, hosted=hosted
        )
        optimizer = BootstrapFewShot(metric=exact_match("zone"), concurrency=1)
        budgeted = Budgeted(lm, Budget(requests=7))
        made = await optimizer.compile(student, make(12), lm=budgeted)
    assert made.report.stopped is not None
    assert made.report.bootstrapped == 2
    assert made.report.errors == 0


class Checked(Module):
    """Answers, and insists on a number."""

    def __init__(self) -> None:
        self.answer = Predict("town -> zone", adapter=ChatAdapter())

    async def forward(self, town: str) -> Prediction:
        found = await self.answer(town=town)
        ensure(found.zone.isdigit(), "give a number")
        return found


async def test_assertions_correct_the_teacher_and_its_last_answer_is_the_demo() -> None:
    def learns(request: Request) -> str:
        told = any("give a number" in m.text for m in request.messages)
        first = next(m.text for m in request.messages[::-1] if "Town" in m.text)
        number = first.split("Town ")[1].split()[0]
        return f"[[ ## zone ## ]]\n{number if told else 'no idea'}"

    lm = ScriptedLM(learns)
    optimizer = BootstrapFewShot(
        metric=exact_match("zone"), max_labeled_demos=0, concurrency=4
    )
    made = await optimizer.compile(Checked(), make(8), lm=lm)
    assert [demo["zone"] for demo in made.program.answer.demos] == ["0", "1", "2", "3"]
    assert made.report.bootstrapped == 4


async def test_react_is_compiled_each_of_its_predictors_gets_demos() -> None:
    def zone_of(town: str) -> str:
        """Look up the zone of a town."""
        return town.split()[1]

    def acts(request: Request) -> str:
        text = next(m.text for m in request.messages[::-1] if m.role == "user")
        number = text.split("Town ")[1].split()[0].rstrip('"')
        if "next_tool_name" in request.messages[0].text:
            done = "observation_0" in text
            name = "finish" if done else "zone_of"
            args = "{}" if done else json.dumps({"town": f"Town {number}"})
            return (
                "[[ ## next_thought ## ]]\nI look it up.\n\n"
                f"[[ ## next_tool_name ## ]]\n{name}\n\n"
                f"[[ ## next_tool_args ## ]]\n{args}"
            )
        return f"[[ ## reasoning ## ]]\nSeen.\n\n[[ ## zone ## ]]\n{number}"

    lm = ScriptedLM(acts)
    student = ReAct(
        "town -> zone", tools=[zone_of], protocol="fields", adapter=ChatAdapter()
    )
    optimizer = BootstrapFewShot(
        metric=exact_match("zone"), max_labeled_demos=0, concurrency=4
    )
    made = await optimizer.compile(student, make(8), lm=lm)
    assert made.report.bootstrapped == 4
    counts = {n: len(p.demos) for n, p in made.program.named_predictors()}
    assert set(counts.values()) == {4}
    assert len(counts) == 2


@pytest.mark.parametrize("fault", ["raises", "hangs", "nan"])
async def test_f3_a_metric_that_fails_costs_its_example_only(
    autojump_clock: trio.testing.MockClock, fault: str
) -> None:
    async def metric(example: object, prediction: Prediction) -> float:
        if prediction.zone not in {"1", "4", "7"}:
            return 1.0
        if fault == "raises":
            raise ValueError("lost")
        if fault == "hangs":
            await trio.sleep_forever()
        return float("nan")

    def right(request: Request) -> str:
        return f"[[ ## zone ## ]]\n{number_in(request)}"

    lm = ScriptedLM(right, delay=1)
    optimizer = BootstrapFewShot(
        metric=metric, max_bootstrapped_demos=6, timeout=30, concurrency=4
    )
    student = Predict("town -> zone", adapter=ChatAdapter())
    made = await optimizer.compile(student, make(9), lm=lm)
    assert (made.report.bootstrapped, made.report.errors) == (6, 3)


async def test_f3_a_budget_that_ends_in_the_search_keeps_the_best_so_far() -> None:
    def needs_a_demo(request: Request) -> str:
        users = [m.text for m in request.messages if m.role == "user"]
        knows = len(users) > 1 or number_in(request) % 3 == 0
        return f"[[ ## zone ## ]]\n{number_in(request) if knows else '?'}"

    student = Predict("town -> zone", adapter=ChatAdapter())
    search = BootstrapFewShotWithRandomSearch(
        metric=exact_match("zone"), max_labeled_demos=0, concurrency=1
    )
    lm = Budgeted(ScriptedLM(needs_a_demo), Budget(requests=55))
    made = await search.compile(student, make(12), valset=make(12, 50), lm=lm)
    assert made.report.stopped is not None
    scored = [c.seed for c in made.candidates if c.score is not None]
    assert scored == [-3, -2, -1]
    evaluate = Evaluate(make(9, 100), metric=exact_match("zone"))
    evaluation = await evaluate(made.program, lm=ScriptedLM(needs_a_demo))
    assert evaluation.score == 100
