"""Running: parallel steps, dispatch after a death, effects, deadlines, failures."""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import pytest
import trio
import trio.testing

from dspex.runtime import CalleeExitedError
from dspex.runtime.engine import (
    Effects,
    Engine,
    Program,
    ProgramError,
    Run,
    Shape,
    Step,
    StepCrashedError,
    StepFailedError,
    StepOptions,
    StepResult,
    StepTimeoutError,
    TooManyDispatchesError,
    make_plan,
)

Work = Callable[[Mapping[str, Any], Effects], Awaitable[dict[str, Any]]]


class Functions:
    """A backend whose modules are the test's own functions."""

    def __init__(self, works: dict[str, Work]) -> None:
        self.works = works

    def shape(self, step: Step) -> Shape:
        left, right = step.signature.split("->")
        return Shape(
            dict.fromkeys((w.strip() for w in left.split(",")), Any),
            dict.fromkeys((w.strip() for w in right.split(",")), Any),
        )

    async def prepare(self, name: str, step: Step) -> None: ...

    async def release(self, name: str, step: Step) -> None: ...

    async def run(
        self,
        name: str,
        step: Step,
        inputs: Mapping[str, Any],
        *,
        effects: Effects,
        deadline: float,
    ) -> StepResult:
        return StepResult(await self.works[step.module](inputs, effects))


async def run(steps: dict[str, Step], works: dict[str, Work], **inputs: Any) -> Run:
    backend = Functions(works)
    plan = make_plan(
        Program(name="p", steps=steps), {"native": backend, "python": backend}
    )
    return await Engine({"native": backend, "python": backend}).run(
        plan, plan.check_inputs(inputs)
    )


async def test_c2_the_middle_steps_of_a_diamond_overlap_and_a_join_waits(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async def slow(inputs: Mapping[str, Any], effects: Effects) -> dict[str, Any]:
        await trio.sleep(1)
        return {"left": inputs["a"] + 1, "right": inputs["a"] + 2}

    async def join(inputs: Mapping[str, Any], effects: Effects) -> dict[str, Any]:
        return {"sum": inputs["left"] + inputs["right"]}

    done = await run(
        {
            "l": Step(module="slow", signature="a -> left"),
            "r": Step(module="slow", signature="a -> right"),
            "j": Step(module="join", signature="left, right -> sum"),
        },
        {"slow": slow, "join": join},
        a=1,
    )
    assert done.outputs["sum"] == 5
    assert trio.current_time() == pytest.approx(1)


@pytest.mark.parametrize(
    ("second", "said"),
    [
        (Step(module="f", signature="x -> y"), "cycle"),
        (Step(module="f", signature="q -> y", inputs={"q": "nobody.z"}), "nobody"),
    ],
)
def test_c2_cycles_and_unknown_dependencies_are_refused_at_build(
    second: Step, said: str
) -> None:
    backend = Functions({})
    first = Step(module="f", signature="y -> x")
    program = Program(name="p", steps={"a": first, "b": second})
    with pytest.raises(ProgramError, match=said):
        make_plan(program, {"native": backend, "python": backend})


async def test_a_step_is_dispatched_again_and_a_finished_call_is_not_made_again() -> (
    None
):
    made: list[str] = []
    deaths = iter([True, True, False])

    async def pay(text: str) -> str:
        made.append(text)
        await trio.lowlevel.checkpoint()
        return text.upper()

    async def mortal(inputs: Mapping[str, Any], effects: Effects) -> dict[str, Any]:
        first = await effects.perform("same", lambda: pay("one"))
        second = await effects.perform("same", lambda: pay("two"))
        if next(deaths):
            raise CalleeExitedError("p/s", "killed")
        return {"out": first + second}

    done = await run({"s": Step(module="m", signature="a -> out")}, {"m": mortal}, a=1)
    assert done.outputs == {"out": "ONETWO"}
    assert done.steps[0].restarts == 2
    assert made == ["one", "two"]


async def test_a_call_under_way_outlives_the_actor_that_asked_for_it(
    autojump_clock: trio.testing.MockClock,
) -> None:
    made: list[float] = []
    deaths = iter([True, False])

    async def pay() -> str:
        made.append(trio.current_time())
        await trio.sleep(2)
        return "paid"

    async def mortal(inputs: Mapping[str, Any], effects: Effects) -> dict[str, Any]:
        if next(deaths):
            with trio.move_on_after(1):
                await effects.perform("f", pay)
            raise CalleeExitedError("p/s", "killed")
        return {"out": await effects.perform("f", pay)}

    done = await run({"s": Step(module="m", signature="a -> out")}, {"m": mortal}, a=1)
    assert done.outputs == {"out": "paid"}
    assert made == [0]
    assert trio.current_time() == pytest.approx(2)


async def test_a_failed_call_is_tried_again_by_the_next_dispatch() -> None:
    refusals = iter([OSError("refused")])

    async def pay() -> str:
        await trio.lowlevel.checkpoint()
        for refusal in refusals:
            raise refusal
        return "paid"

    async def mortal(inputs: Mapping[str, Any], effects: Effects) -> dict[str, Any]:
        try:
            return {"out": await effects.perform("f", pay)}
        except OSError as error:
            raise CalleeExitedError("p/s", error) from error

    done = await run({"s": Step(module="m", signature="a -> out")}, {"m": mortal}, a=1)
    assert done.outputs == {"out": "paid"}


async def test_a_failed_step_fails_the_run_names_its_cause_and_stops_the_others(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async def bad(inputs: Mapping[str, Any], effects: Effects) -> dict[str, Any]:
        raise ZeroDivisionError("boom")

    async def slow(inputs: Mapping[str, Any], effects: Effects) -> dict[str, Any]:
        await trio.sleep(60)
        return {"y": 1}

    done = await run(
        {
            "bad": Step(module="bad", signature="a -> x"),
            "slow": Step(module="slow", signature="a -> y"),
        },
        {"bad": bad, "slow": slow},
        a=1,
    )
    assert done.status == "failed"
    assert trio.current_time() == 0
    with pytest.raises(StepFailedError, match="'bad' failed: ZeroDivisionError: boom"):
        _ = done.outputs


async def test_deaths_without_end_are_bounded_by_count_and_by_time(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async def mortal(inputs: Mapping[str, Any], effects: Effects) -> dict[str, Any]:
        await trio.sleep(1)
        raise CalleeExitedError("p/s", "killed")

    works: dict[str, Work] = {"m": mortal}
    by_count = await run(
        {
            "s": Step(
                module="m", signature="a -> b", options=StepOptions(max_dispatches=3)
            )
        },
        works,
        a=1,
    )
    assert by_count.error is not None
    assert isinstance(by_count.error.__cause__, TooManyDispatchesError)
    assert by_count.steps[0].restarts == 2
    by_time = await run(
        {"s": Step(module="m", signature="a -> b", options=StepOptions(timeout=2.5))},
        works,
        a=1,
    )
    assert by_time.error is not None
    assert isinstance(by_time.error.__cause__, StepTimeoutError)


async def test_a_step_that_its_process_dies_of_is_not_run_as_often_as_a_killed_one(
    autojump_clock: trio.testing.MockClock,
) -> None:
    deaths: list[CalleeExitedError] = []

    async def mortal(inputs: Mapping[str, Any], effects: Effects) -> dict[str, Any]:
        if not deaths:
            return {"b": 1}
        raise deaths.pop(0)

    killed = CalleeExitedError("p/s", "killed")
    crashed = StepCrashedError("p/s", "exited")
    steps = {"s": Step(module="m", signature="a -> b")}
    deaths[:] = [crashed, crashed, killed, crashed, crashed]
    between = await run(steps, {"m": mortal}, a=1)
    assert between.status == "succeeded"
    deaths[:] = [killed, crashed, crashed, crashed, killed]
    in_a_row = await run(steps, {"m": mortal}, a=1)
    assert in_a_row.error is not None
    cause = in_a_row.error.__cause__
    assert isinstance(cause, TooManyDispatchesError)
    assert (cause.dispatches, cause.option) == (4, "max_crashes")
    assert "4 times and its process died of it each time (options.max_crashes" in str(
        cause
    )


async def test_what_dies_again_and_again_is_dispatched_after_pauses(
    autojump_clock: trio.testing.MockClock,
) -> None:
    asked: list[float] = []

    async def mortal(inputs: Mapping[str, Any], effects: Effects) -> dict[str, Any]:
        asked.append(trio.current_time())
        raise CalleeExitedError("p/s", "killed")

    started = trio.current_time()
    ended = await run({"s": Step(module="m", signature="a -> b")}, {"m": mortal}, a=1)
    assert isinstance(ended.error, StepFailedError)
    assert "options.max_dispatches" in str(ended.error)
    after = [at - started for at in asked]
    assert len(after) == 20
    assert after[:5] == pytest.approx([0, 0, 0, 0.1, 0.3])
    assert after[-1] - after[-2] == pytest.approx(5)
