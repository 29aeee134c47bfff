"""Modules on the runtime's tree: started by hand, and agents as steps of programs."""

from pathlib import Path

import pytest
import trio
import trio.testing

from dspex import Program, Step, open_runtime
from dspex.modules import Module, Predict, Prediction
from dspex.modules.errors import ForwardQueueFullError, ForwardTimeoutError
from dspex.modules.react.errors import AgentStoppedError
from dspex.providers import Request
from dspex.runtime.engine import StepFailedError
from dspex.runtime.errors import CalleeExitedError, DspexError, NoProcessError
from dspex.supervisors import ChildStartError
from dspex.testing import Fault, FaultPlan, ScriptedLM, inject

ANSWER = '{"answer": "Paris"}'
AGENT = """
name: solve
steps:
  agent:
    module: ReAct
    signature: "question -> answer: float"
    config: {tools: [calculator], max_iterations: 3, protocol: fields}
"""


calls: list[int] = []


# Async: the clock of a test does not wait for threads.
async def tally() -> int:
    """Count one more."""
    calls.append(len(calls))
    return len(calls)


def step(tool: str, arguments: str) -> str:
    return (
        f'{{"next_thought": "t", "next_tool_name": "{tool}", '
        f'"next_tool_args": {arguments}}}'
    )


async def test_a_started_module_answers_by_its_name_and_outlives_a_crash() -> None:
    async with open_runtime(ScriptedLM(lambda _: ANSWER)) as rt:
        qa = await rt.start(
            Predict("question -> answer"), name="qa", restart="permanent"
        )
        found: Prediction = await qa.forward(question="Capital of France?")
        assert found.answer == "Paris"
        await qa.set_parameter("instructions", "Be brief.")
        actor = rt.node.registry.whereis("qa")
        assert actor is not None
        actor.exit("boom")
        await actor.wait_exit()
        assert (await qa.forward(question="Again?")).answer == "Paris"
        assert await qa.get_parameter("instructions") == "Be brief."
        assert rt.modules.list_modules() == ("qa",)
        with pytest.raises(ChildStartError):
            await rt.start(Predict("question -> answer"), name="qa")


def written(folder: Path, text: str) -> Path:
    path = folder / "solve.yaml"
    path.write_text(text)
    return path


async def test_react_is_a_step_with_tools_by_name(tmp_path: Path) -> None:
    lm = ScriptedLM(
        [
            step("calculator", '{"expression": "25*4"}'),
            step("finish", "{}"),
            '{"reasoning": "r", "answer": 100}',
        ]
    )
    async with open_runtime(lm) as rt:
        run = await rt.run(Program.load(written(tmp_path, AGENT)), question="25 * 4?")
    assert run.outputs["answer"] == 100.0
    assert "100" in lm.requests[1].messages[-1].text


@pytest.mark.parametrize(
    ("tools", "problem"),
    [
        ("[abacus]", "'abacus' is unknown"),
        ("['no.such:tool']", "cannot be imported"),
        ("calculator", "is no list"),
        ("[3]", "is no name"),
    ],
)
async def test_tools_that_are_none_are_found_before_a_run(
    tools: str, problem: str, tmp_path: Path
) -> None:
    program = Program.load(written(tmp_path, AGENT.replace("[calculator]", tools)))
    async with open_runtime(ScriptedLM([ANSWER])) as rt:
        with pytest.raises(DspexError, match=problem):
            rt.plan(program)


def endless(_: Request) -> str:
    return step("tally", "{}")


BUDGETS = [
    ("tokens: 1", "max_tokens"),
    ("seconds: 1.5", "max_seconds"),
    ("cost: 1.0e-9", "max_cost"),
]


@pytest.mark.parametrize(("limit", "reason"), BUDGETS)
async def test_an_agent_that_has_spent_its_budget_fails_its_step_and_says_how(
    limit: str, reason: str, tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    text = AGENT.replace("max_iterations: 3", f"budget: {{{limit}}}")
    text = text.replace("[calculator]", f"['{__name__}:tally']")
    lm = ScriptedLM(endless, name="openai:gpt-4.1", delay=1)
    async with open_runtime(lm) as rt:
        run = await rt.run(Program.load(written(tmp_path, text)), question="?")
    assert isinstance(run.error, StepFailedError)
    stopped = run.error.__cause__
    assert isinstance(stopped, AgentStoppedError)
    assert stopped.reason == reason
    assert len(lm.requests) == (2 if reason == "max_seconds" else 1)
    assert stopped.trajectory["tool_name_0"] == "tally"


async def test_a_step_gives_the_facts_of_its_agent_that_it_is_asked_for(
    tmp_path: Path,
) -> None:
    text = AGENT.replace(
        "max_iterations: 3", "budget: {tokens: 1}, facts: [success, reason, trajectory]"
    )
    text += """
  again:
    module: Predict
    signature: "question, trajectory: dict -> answer: str"
    when: not agent.success
outputs: {answer: again.answer, why: agent.reason, did: agent.trajectory}
"""
    first = step("calculator", '{"expression": "6*7"}')
    lm = ScriptedLM([first, '{"answer": "unknown"}'])
    async with open_runtime(lm) as rt:
        run = await rt.run(Program.load(written(tmp_path, text)), question="?")
    assert (run.outputs["answer"], run.outputs["why"]) == ("unknown", "max_tokens")
    assert run.outputs["did"]["tool_name_0"] == "calculator"
    assert "tool_name_0" in lm.requests[1].messages[-1].text


@pytest.mark.parametrize(
    ("config", "problem"),
    [
        ("budget: 5", "is no mapping of tokens, seconds, cost"),
        ("budget: {token: 5}", "has no 'token'; it has tokens, seconds, cost"),
        ("budget: {tokens: many}", "must be a number"),
        ("budget: {seconds: 0}", "must be positive"),
        ("facts: [succes]", "is none of success, reason, trajectory"),
        ("facts: success", "is no list of names"),
    ],
)
async def test_budgets_and_facts_that_are_none_are_found_before_a_run(
    config: str, problem: str, tmp_path: Path
) -> None:
    text = AGENT.replace("max_iterations: 3", config)
    async with open_runtime(ScriptedLM([ANSWER])) as rt:
        with pytest.raises(DspexError, match=problem):
            rt.plan(Program.load(written(tmp_path, text)))


async def test_an_agent_whose_actor_dies_repeats_no_call_that_was_finished(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    calls.clear()
    text = AGENT.replace("[calculator]", f"['{__name__}:tally']")
    lm = ScriptedLM(
        [
            step("tally", "{}"),
            step("finish", "{}"),
            '{"reasoning": "r", "answer": 1}',
        ],
        delay=2.0,
    )
    async with open_runtime(lm) as rt:
        program = Program.load(written(tmp_path, text))

        async def crash() -> None:
            await trio.sleep(3)  # the tool has answered, the second turn is under way
            actor = rt.node.registry.whereis("solve/agent")
            assert actor is not None
            actor.exit("boom")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(crash)
            run = await rt.run(program, question="?")
    assert run.outputs["answer"] == 1.0
    assert run.steps[0].restarts == 1
    assert (len(lm.requests), len(calls)) == (3, 1)


async def test_the_supervisor_of_the_modules_may_die_while_a_program_is_loaded() -> (
    None
):
    steps = {
        "a": Step(module="Predict", signature="question -> answer"),
        "b": Step(module="Predict", signature="answer -> next"),
    }
    lm = ScriptedLM(lambda _: '{"answer": "Paris", "next": "Rome"}')
    async with open_runtime(lm) as rt:
        plan = FaultPlan.of(Fault("kill", "modules", nth=1))
        before = rt.node.registry.whereis("modules")
        with inject(rt.node, plan):
            run = await rt.run(Program(name="p", steps=steps), question="?")
        assert rt.node.registry.whereis("modules") != before
    assert run.outputs["next"] == "Rome"


async def test_a_forward_may_take_as_long_as_its_module_was_started_with(
    autojump_clock: trio.testing.MockClock,
) -> None:
    class Slow(Module):
        async def forward(self, seconds: float) -> Prediction:
            await trio.sleep(seconds)
            return Prediction.of([{"slept": seconds}])

    async with open_runtime(ScriptedLM([ANSWER])) as rt:
        slow = await rt.start(Slow(), name="slow", timeout=900)
        assert (await slow.forward(seconds=800.0)).slept == 800.0
        with pytest.raises(ForwardTimeoutError, match="900"):
            await slow.forward(seconds=1_000.0)
        usual = await rt.start(Slow(), name="usual")
        with pytest.raises(ForwardTimeoutError, match="300"):
            await usual.forward(seconds=301.0)


async def test_the_wait_for_a_turn_does_not_count_and_has_its_own_limit(
    autojump_clock: trio.testing.MockClock,
) -> None:
    class Slow(Module):
        async def forward(self) -> Prediction:
            await trio.sleep(200)
            return Prediction.of([{"at": trio.current_time()}])

    done: list[float] = []

    async with open_runtime(ScriptedLM([ANSWER])) as rt:
        slow = await rt.start(Slow(), name="slow", max_concurrency=1, max_waiting=3)

        async def ask() -> None:
            done.append((await slow.forward()).at)

        started = trio.current_time()
        async with trio.open_nursery() as nursery:
            for _ in range(4):
                nursery.start_soon(ask)
            await trio.testing.wait_all_tasks_blocked()
            with pytest.raises(ForwardQueueFullError):
                await slow.forward()
            # It waits for all four, longer than any one may take.
            assert await slow.swap(Slow()) == 4
    assert done == pytest.approx([started + n * 200 for n in (1, 2, 3, 4)])


async def test_a_module_that_is_stopped_is_forgotten(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with open_runtime(ScriptedLM(lambda _: ANSWER, delay=9)) as rt:
        qa = await rt.start(Predict("question -> answer"), name="qa")
        await qa.set_parameter("seed", 7)

        async def ask() -> None:
            with pytest.raises(CalleeExitedError):
                await qa.forward(question="?")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask)
            await trio.testing.wait_all_tasks_blocked()
            await rt.modules.stop("qa")
        assert rt.modules.list_modules() == ()
        with pytest.raises(NoProcessError, match="'qa'"):
            await rt.modules.stop("qa")
        again = await rt.start(Predict("question -> answer"), name="qa")
        # Not what the one before it had.
        assert await again.get_parameter("seed") is None
        assert (await again.get_state()).metrics.restarts == 0


async def test_a_module_that_gave_up_can_be_stopped(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with open_runtime(ScriptedLM(lambda _: ANSWER)) as rt:
        await rt.start(Predict("question -> answer"), name="qa", restart="temporary")
        ref = await rt.node.registry.wait_for("qa")
        ref.exit("crash")
        await ref.wait_exit()
        await rt.modules.stop("qa")
        await rt.start(Predict("question -> answer"), name="qa")
        assert rt.modules.list_modules() == ("qa",)
