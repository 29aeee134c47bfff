"""What programs can say: order, conditions, maps, failures, retries, deadlines."""

from collections.abc import Mapping
from typing import Any

import pytest
import trio
import trio.testing

from dspex.runtime import DspexError
from dspex.runtime.engine import (
    Effects,
    Engine,
    Program,
    ProgramError,
    ProgramOptions,
    Run,
    RunTimeoutError,
    Step,
    StepFailedError,
    StepOptions,
    make_plan,
)
from dspex.runtime.engine.condition import BadConditionError, parse_condition
from dspex.runtime.engine.errors import ConditionError
from dspex.runtime.engine.explain import explain
from dspex.runtime.engine.type_check import can_feed
from tests.engine.test_engine import Functions, Work


async def upper(inputs: Mapping[str, Any], effects: Effects) -> dict[str, Any]:
    await trio.sleep(1)
    return {"out": str(inputs["x"]).upper()}


async def fails(inputs: Mapping[str, Any], effects: Effects) -> dict[str, Any]:
    raise ZeroDivisionError("boom")


async def execute(program: Program, works: dict[str, Work], **inputs: Any) -> Run:
    backend = Functions(works)
    backends = {"native": backend, "python": backend}
    plan = make_plan(program, backends)
    return await Engine(backends).run(plan, plan.check_inputs(inputs))


def program(options: ProgramOptions | None = None, **steps: Step) -> Program:
    return Program(name="p", steps=steps, options=options or ProgramOptions())


async def test_after_orders_steps_that_share_nothing(
    autojump_clock: trio.testing.MockClock,
) -> None:
    done = await execute(
        program(
            first=Step(module="upper", signature="x -> out"),
            then=Step(module="upper", signature="x -> out", after=("first",)),
        ).model_copy(update={"outputs": {"a": "first.out", "b": "then.out"}}),
        {"upper": upper},
        x="a",
    )
    assert done.outputs == {"a": "A", "b": "A"}
    assert trio.current_time() == pytest.approx(2)


@pytest.mark.parametrize(("x", "state"), [("yes", "succeeded"), ("no", "skipped")])
async def test_when_decides_whether_a_step_and_what_needs_it_run(
    x: str, state: str, autojump_clock: trio.testing.MockClock
) -> None:
    done = await execute(
        program(
            s=Step(module="upper", signature="x -> out", when="inputs.x == 'yes'"),
            t=Step(module="echo", signature="out -> told"),
        ),
        {"upper": upper, "echo": echo},
        x=x,
    )
    assert done.status == "succeeded"
    assert [record.state for record in done.steps] == [state, state]
    assert ("told" in done.given) is (state == "succeeded")


async def test_a_when_that_cannot_be_decided_fails_its_step() -> None:
    done = await execute(
        program(s=Step(module="upper", signature="x -> out", when="inputs.x > 3")),
        {"upper": upper},
        x="many",
    )
    assert isinstance(done.error, StepFailedError)
    error = done.error.__cause__
    assert isinstance(error, ConditionError)
    assert (error.step, error.condition) == ("s", "inputs.x > 3")
    assert "'>' not supported" in str(error)


async def echo(inputs: Mapping[str, Any], effects: Effects) -> dict[str, Any]:
    return {"told": inputs["out"]}


async def test_a_step_whose_when_does_not_hold_gives_its_default() -> None:
    default = StepOptions(default={"out": "nothing"})
    done = await execute(
        program(
            s=Step(module="f", signature="x -> out", when="False", options=default),
            t=Step(module="echo", signature="out -> told"),
        ),
        {"f": fails, "echo": echo},
        x="",
    )
    assert done.outputs == {"out": "nothing", "told": "nothing"}


async def test_map_runs_a_step_for_each_item_in_order_and_some_at_a_time(
    autojump_clock: trio.testing.MockClock,
) -> None:
    step = Step(
        module="upper",
        signature="x -> out",
        map={"x": "inputs.words"},
        options=StepOptions(concurrency=2),
    )
    done = await execute(program(s=step), {"upper": upper}, words=["a", "b", "c"])
    assert done.outputs == {"out": ["A", "B", "C"]}
    assert trio.current_time() == pytest.approx(2)
    assert done.steps[0].attempts == 3
    empty = await execute(program(s=step), {"upper": upper}, words=[])
    assert empty.outputs == {"out": []}


async def test_a_failing_item_fails_its_step_at_once(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async def some(inputs: Mapping[str, Any], effects: Effects) -> dict[str, Any]:
        await trio.sleep(inputs["x"])
        if inputs["x"] == 1:
            raise ValueError("one")
        return {"out": inputs["x"]}

    step = Step(module="some", signature="x -> out", map={"x": "inputs.xs"})
    done = await execute(program(s=step), {"some": some}, xs=[60, 1, 60])
    with pytest.raises(StepFailedError, match="ValueError: one"):
        _ = done.outputs
    assert trio.current_time() == pytest.approx(1)


async def test_a_map_over_what_is_no_list_says_so() -> None:
    step = Step(module="f", signature="x -> out", map={"x": "inputs.xs"})
    backend = Functions({"f": fails})
    plan = make_plan(program(s=step), {"native": backend, "python": backend})
    done = await Engine({"native": backend}).run(plan, {"xs": 7})
    with pytest.raises(StepFailedError, match="'x' needs a list, not int: 7"):
        _ = done.outputs


async def test_a_failed_step_may_be_skipped_or_give_a_default() -> None:
    skip = StepOptions(on_error="skip")
    default = StepOptions(on_error="default", default={"other": "d"})
    done = await execute(
        program(
            a=Step(module="f", signature="x -> out", options=skip),
            b=Step(module="f", signature="x -> other", options=default),
            c=Step(module="echo", signature="out -> told"),
        ),
        {"f": fails, "echo": echo},
        x="",
    )
    assert done.outputs == {"other": "d"}
    assert [record.state for record in done.steps] == ["failed", "failed", "skipped"]
    assert done.steps[0].error == "ZeroDivisionError: boom"


async def test_C4_strict_fails_with_step_and_cause_tolerant_goes_on(  # noqa: N802
    autojump_clock: trio.testing.MockClock,
) -> None:
    def both(options: ProgramOptions) -> Program:
        return program(
            options,
            bad=Step(module="f", signature="x -> broken"),
            needs=Step(module="echo", signature="broken -> told"),
            good=Step(module="upper", signature="x -> out"),
        )

    works: dict[str, Work] = {"f": fails, "echo": echo, "upper": upper}
    strict = await execute(both(ProgramOptions()), works, x="a")
    with pytest.raises(StepFailedError, match="'bad' failed: ZeroDivisionError: boom"):
        _ = strict.outputs
    assert trio.current_time() < 1
    tolerant = await execute(both(ProgramOptions(tolerant=True)), works, x="a")
    assert tolerant.outputs == {"out": "A"}
    states = {record.name: record.state for record in tolerant.steps}
    assert states == {"bad": "failed", "needs": "skipped", "good": "succeeded"}


async def test_C4_the_deadline_of_a_program_cancels_everything_below(  # noqa: N802
    autojump_clock: trio.testing.MockClock,
) -> None:
    ended: list[float] = []

    async def hang(inputs: Mapping[str, Any], effects: Effects) -> dict[str, Any]:
        try:
            return await effects.perform("q", trio.sleep_forever)
        finally:
            ended.append(trio.current_time())

    done = await execute(
        program(ProgramOptions(timeout=3), s=Step(module="hang", signature="x -> out")),
        {"hang": hang},
        x="",
    )
    with pytest.raises(RunTimeoutError, match="within 3s; unfinished: s"):
        _ = done.outputs
    assert ended == [3]


async def test_a_tolerant_run_that_gave_nothing_has_failed() -> None:
    done = await execute(
        program(
            ProgramOptions(tolerant=True), s=Step(module="f", signature="x -> out")
        ),
        {"f": fails},
        x="",
    )
    assert done.status == "failed"


async def test_a_retry_asks_anew_and_waits_longer_each_time(
    autojump_clock: trio.testing.MockClock,
) -> None:
    asked: list[float] = []

    async def flaky(inputs: Mapping[str, Any], effects: Effects) -> dict[str, Any]:
        async def ask() -> int:
            asked.append(trio.current_time())
            return len(asked)

        number = await effects.perform("same question", ask)
        if number < 3:
            raise ValueError(f"answer {number} is no good")
        return {"out": number}

    step = Step(module="flaky", signature="x -> out", options=StepOptions(retries=2))
    done = await execute(program(s=step), {"flaky": flaky}, x="")
    assert done.outputs == {"out": 3}
    assert asked == [0, 0.5, 1.5]
    assert (done.steps[0].attempts, done.steps[0].live) == (3, 3)


@pytest.mark.parametrize(
    ("step", "problem"),
    [
        (Step(module="f", signature="x -> y", after=("nope",)), "after names the step"),
        (Step(module="f", signature="x -> y", when="s.nope == 1"), "no output 'nope'"),
        (Step(module="f", signature="x -> y", when="open('x')"), "may not be in it"),
        (Step(module="f", signature="x -> y", map={"z": "inputs.x"}), "no input 'z'"),
        (
            Step(module="f", signature="x -> y", options=StepOptions(default={"n": 1})),
            "default must give exactly the outputs: y",
        ),
        (
            Step(
                module="f", signature="x -> y", options=StepOptions(on_error="default")
            ),
            "there is no default",
        ),
        (Step(module="f", signature="x -> y", after=("s",)), "in a cycle: s -> s"),
    ],
)
def test_what_cannot_be_run_is_refused_at_build(step: Step, problem: str) -> None:
    backend = Functions({"f": fails})
    with pytest.raises(ProgramError, match=problem):
        make_plan(program(s=step), {"native": backend, "python": backend})


@pytest.mark.parametrize(
    ("text", "holds"),
    [
        ("s.n > 3 and s.n <= 5", True),
        ("not s.flag", False),
        ("s.word in ['a', 'b']", True),
        ("3 < s.n < 5", True),
        ("3 < s.n < 4", False),
        ("len(s.items) == 2 or s.n == 0", True),
        ("s.word != 'a'", False),
        ("s.nothing is None", True),
        ("s.n == -4", False),
    ],
)
def test_a_condition_compares_what_it_refers_to(text: str, holds: bool) -> None:
    values = {"n": 4, "flag": True, "word": "a", "items": [1, 2], "nothing": None}
    condition = parse_condition(text)
    assert condition.holds(lambda source, field: values[field]) is holds


@pytest.mark.parametrize(
    "text",
    [
        "__import__('os').system('x')",
        "s.n.real",
        "s",
        "(lambda: 1)()",
        "[x for x in s.items]",
        "f'{s.n}'",
        "9 ** 9",
        "s.items[0]",
        "len(s.a, s.b)",
        "1 +",
        "",
        "b'x' == s.n",
        "(" * 300,
    ],
)
def test_a_condition_is_nothing_but_a_comparison(text: str) -> None:
    with pytest.raises(BadConditionError):
        parse_condition(text)


@pytest.mark.parametrize(
    ("source", "target", "fits"),
    [
        (str, str, True),
        (int, str, False),
        (str, int, False),
        (int, float, True),
        (float, int, False),
        (list[str], list[str], True),
        (list[str], list[int], False),
        (list[str], str, False),
        (str, list[str], False),
        (Any, int, True),
        (str | None, str, True),
        (int, str | None, False),
        (int | str, str, True),
        (dict[str, int], dict[str, str], False),
        (DspexError, str, True),
    ],
)
def test_types_that_can_never_fit_are_told_apart(
    source: Any, target: Any, fits: bool
) -> None:
    assert can_feed(source, target) is fits


def test_a_plan_is_explained_as_text() -> None:
    backend = Functions({})
    plan = make_plan(
        program(
            find=Step(
                module="Find", signature="question -> documents", backend="python"
            ),
            rate=Step(
                module="Rate",
                signature="question, document -> score",
                map={"document": "find.documents"},
                when="inputs.question != ''",
            ),
        ),
        {"native": backend, "python": backend},
    )
    text = explain(plan)
    assert "  1.    find  [python] Find" in text
    assert "  2.    rate  [native] Rate" in text
    assert "document <- find.documents (each item)" in text
    assert "when inputs.question != ''" in text
    assert "output  score = rate.score" in text
