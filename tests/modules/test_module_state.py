import json
import statistics
import time
import tracemalloc

import pytest
import trio
import trio.lowlevel
import trio.testing

from dspex.modules import (
    ChainOfThought,
    Module,
    ModuleActor,
    ModuleRegistry,
    Parameter,
    ParameterError,
    Predict,
    Prediction,
    Signature,
    Snapshots,
    StateError,
    UnknownParameterError,
)
from dspex.providers import Request
from dspex.providers.lm import Capabilities
from dspex.runtime import ActorRef, Node, open_node
from dspex.supervisors import ChildSpec, DynamicSupervisor, Supervisor
from dspex.testing import ScriptedLM

NOTHING: dict[str, object] = {}
CHAT = Capabilities(json_schema=False, tools=False)


def model(*, delay: float = 0) -> ScriptedLM:
    """Answers with the instructions, the number of demos and the temperature."""

    def rule(request: Request) -> str:
        task = request.messages[0].text.split("\n")[0].removeprefix("Task: ")
        demos = len(request.messages) // 2 - 1
        answer = f"{task} {demos} {request.temperature}"
        return f"[[ ## reasoning ## ]]\nr\n[[ ## answer ## ]]\n{answer}"

    return ScriptedLM(rule, capabilities=CHAT, delay=delay)


async def supervised(
    node: Node, *, snapshots: Snapshots | None
) -> ActorRef[Supervisor]:
    def build() -> ModuleActor:
        module = Predict(Signature("question -> answer", "Old."))
        return ModuleActor(module, model(), snapshots=snapshots)

    spec = ChildSpec("qa", build, name="qa")
    return await node.start(Supervisor([spec], intensity=10))


async def ask(node: Node) -> str:
    ref = await node.registry.wait_for("qa", timeout=5)
    found: Prediction = await ref.call(ModuleActor.forward, {"question": "?"})
    answer: str = found.answer
    return answer


async def crash(node: Node) -> None:
    before = node.registry.whereis("qa")
    assert before is not None
    before.exit("crash")
    while node.registry.whereis("qa") in (before, None):
        await trio.lowlevel.checkpoint()


@pytest.mark.parametrize(
    ("snapshots", "expected", "restarts"),
    [(Snapshots(), "New. 1 0.5", 1), (None, "Old. 0 None", 0)],
)
async def test_a9_parameters_survive_a_crash_with_snapshots(
    snapshots: Snapshots | None, expected: str, restarts: int
) -> None:
    async with open_node() as node:
        await supervised(node, snapshots=snapshots)
        ref = await node.registry.wait_for("qa", timeout=5)
        await ref.call(ModuleActor.set_parameter, "instructions", "New.")
        demos = [{"question": "q", "answer": "a"}]
        await ref.call(ModuleActor.set_parameter, "demos", demos)
        await ref.call(ModuleActor.set_parameter, "temperature", 0.5)
        assert await ask(node) == "New. 1 0.5"
        await crash(node)
        assert await ask(node) == expected
        ref = await node.registry.wait_for("qa", timeout=5)
        state = await ref.call(ModuleActor.get_state)
        assert state.metrics.restarts == restarts


@pytest.mark.parametrize(
    ("name", "value", "problem"),
    [
        ("temperature", 3, "less than or equal to 2"),
        ("temperature", "hot", "valid number"),
        ("max_tokens", 0, "greater than or equal to 1"),
        ("instructions", "", "at least 1 character"),
        ("instructions", 7, "valid string"),
        ("demos", [1], "valid dictionary"),
    ],
)
async def test_a10_violation_changes_neither_value_nor_history(
    name: str, value: object, problem: str
) -> None:
    async with open_node() as node:
        ref = await node.start(ModuleActor(Predict("question -> answer"), model()))
        before = await ref.call(ModuleActor.get_state)
        with pytest.raises(ParameterError, match=problem):
            await ref.call(ModuleActor.set_parameter, name, value)
        after = await ref.call(ModuleActor.get_state)
        assert after.parameters == before.parameters
        assert after.version == before.version
        assert ref.is_alive


async def test_a10_histories_are_capped() -> None:
    async with open_node() as node:
        ref = await node.start(ModuleActor(Predict("question -> answer"), model()))
        for number in range(150):
            await ref.call(ModuleActor.set_parameter, "seed", number)
        for _ in range(1_010):
            await ref.call(ModuleActor.forward, {"question": "?"})
        state = await ref.call(ModuleActor.get_state)
        assert state.parameters["seed"].value == 149
        assert state.parameters["seed"].history == tuple(range(49, 149))
        assert len(state.executions) == 1_000
        assert state.metrics.count == 1_010


async def test_fewer_executions_are_kept_where_that_is_asked_for() -> None:
    async with open_node() as node:
        actor = ModuleActor(Predict("question -> answer"), model(), history=3)
        ref = await node.start(actor)
        for number in range(5):
            await ref.call(ModuleActor.forward, {"question": f"{number}?"})
        state = await ref.call(ModuleActor.get_state)
        assert [it.inputs["question"] for it in state.executions] == ["2?", "3?", "4?"]


async def test_large_executions_are_fewer_and_the_metrics_are_of_all() -> None:
    async with open_node() as node:
        ref = await node.start(ModuleActor(Predict("question -> answer"), model()))
        for number in range(30):
            question = f"{number}" + "?" * 1_000_000
            await ref.call(ModuleActor.forward, {"question": question})
        state = await ref.call(ModuleActor.get_state)
        assert [it.inputs["question"].strip("?") for it in state.executions] == [
            "26", "27", "28", "29",
        ]  # fmt: skip
        assert state.metrics.count == 30


async def test_unknown_parameter_is_named() -> None:
    async with open_node() as node:
        module = ChainOfThought("question -> answer")
        ref = await node.start(ModuleActor(module, model()))
        with pytest.raises(UnknownParameterError, match=r"predict\.temperature"):
            await ref.call(ModuleActor.set_parameter, "predict.temprature", 1)


async def test_subscribers_hear_of_each_change() -> None:
    heard: list[Parameter] = []
    async with open_node() as node:
        ref = await node.start(ModuleActor(Predict("question -> answer"), model()))
        await ref.call(ModuleActor.subscribe, heard.append)
        await ref.call(ModuleActor.set_parameter, "seed", 1)
        await ref.call(ModuleActor.unsubscribe, heard.append)
        await ref.call(ModuleActor.set_parameter, "seed", 2)
    assert [(p.name, p.value) for p in heard] == [("seed", 1)]


async def test_running_forwards_keep_the_parameters_they_came_with(
    autojump_clock: trio.testing.MockClock,
) -> None:
    answers: list[str] = []
    async with open_node() as node:
        module = Predict(Signature("question -> answer", "Old."))
        ref = await node.start(ModuleActor(module, model(delay=1)))

        async def run() -> None:
            found = await ref.call(ModuleActor.forward, {"question": "?"})
            answers.append(found.answer)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(run)
            await trio.testing.wait_all_tasks_blocked()
            await ref.call(ModuleActor.set_parameter, "instructions", "New.")
            nursery.start_soon(run)
    assert sorted(answers) == ["New. 0 None", "Old. 0 None"]
    # What the user holds is not changed either.
    assert module.signature.instructions == "Old."


async def test_checkpoint_goes_to_json_and_back() -> None:
    async with open_node() as node:
        ref = await node.start(ModuleActor(Predict("question -> answer"), model()))
        await ref.call(ModuleActor.set_parameter, "instructions", "Good.")
        await ref.call(ModuleActor.set_parameter, "temperature", 0.5)
        checkpoint = json.loads(json.dumps(await ref.call(ModuleActor.checkpoint)))
        await ref.call(ModuleActor.set_parameter, "instructions", "Bad.")
        await ref.call(ModuleActor.set_parameter, "temperature", None)
        await ref.call(ModuleActor.restore, checkpoint)
        found = await ref.call(ModuleActor.forward, {"question": "?"})
        assert found.answer == "Good. 0 0.5"
        state = await ref.call(ModuleActor.get_state)
        assert state.parameters["instructions"].history[-1] == "Bad."
        with pytest.raises(StateError):
            await ref.call(ModuleActor.restore, dict[str, object](program=NOTHING))
        with pytest.raises(StateError, match="has no program"):
            await ref.call(ModuleActor.restore, NOTHING)


class Shouting(Module):
    def __init__(self) -> None:
        self.predict = Predict("question -> answer")

    async def forward(self, question: str) -> Prediction:
        found = await self.predict(question=question)
        return Prediction(answer=found.answer.upper())


async def test_swap_drains_and_loses_no_call(
    autojump_clock: trio.testing.MockClock,
) -> None:
    answers: list[str] = []
    async with open_node() as node:
        module = ChainOfThought(Signature("question -> answer", "Old."))
        ref = await node.start(ModuleActor(module, model(delay=1)), name="qa")
        await ref.call(ModuleActor.set_parameter, "predict.instructions", "Set.")

        async def run() -> None:
            found = await ref.call(ModuleActor.forward, {"question": "?"})
            answers.append(found.answer)

        async with trio.open_nursery() as nursery:
            for _ in range(5):
                nursery.start_soon(run)
            await trio.testing.wait_all_tasks_blocked()
            drained = await ref.call(ModuleActor.swap, Shouting())
            assert drained == 5
            state = await ref.call(ModuleActor.get_state)
            assert state.metrics.count == 5
            nursery.start_soon(run)
        # The new one took the parameter over that both have.
        assert sorted(answers) == ["SET. 0 NONE", *["Set. 0 None"] * 5]
        assert node.registry.whereis("qa") == ref


async def test_registry_starts_finds_and_lists() -> None:
    async with open_node() as node:
        supervisor = await node.start(DynamicSupervisor())
        modules = ModuleRegistry(node.registry, supervisor, lm=model())
        qa = await modules.start(Predict("question -> answer"), "qa")
        await modules.start(Shouting(), "loud")
        assert modules.list_modules() == ("qa", "loud")
        assert modules.list_modules("Predict") == ("qa",)
        await qa.set_parameter("seed", 7)
        assert (await qa.forward(question="?")).answer
        await crash(node)
        # The ref follows the name, and the parameter survived.
        assert await qa.get_parameter("seed") == 7
        state = await modules.find("qa").get_state()
        assert (state.kind, state.metrics.restarts) == ("Predict", 1)
        checkpoint = await qa.checkpoint()
        await qa.restore(checkpoint)
        assert await qa.swap(Shouting()) == 0
        assert (await qa.forward(question="?")).answer.isupper()


async def test_metrics_count_successes_failures_and_seconds(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with open_node() as node:
        actor = ModuleActor(
            Predict("question -> answer"),
            model(delay=2),
            price=lambda usage: usage.output_tokens * 0.5,
        )
        ref = await node.start(actor)
        for _ in range(4):
            await ref.call(ModuleActor.forward, {"question": "?"}, timeout=60)
        with pytest.raises(Exception, match="missing"):
            await ref.call(ModuleActor.forward, NOTHING)
        metrics = (await ref.call(ModuleActor.get_state)).metrics
        assert (metrics.count, metrics.succeeded, metrics.failed) == (5, 4, 1)
        assert metrics.mean_seconds == pytest.approx(1.6)
        assert metrics.p50_seconds == metrics.p95_seconds == pytest.approx(2)
        assert metrics.cost == metrics.usage.output_tokens * 0.5 > 0


async def test_a11_a_thousand_modules_are_quick_and_flat() -> None:
    async with open_node() as node:
        started = time.perf_counter()
        refs = [
            await node.start(ModuleActor(Predict("question -> answer"), model()))
            for _ in range(1_000)
        ]
        each = (time.perf_counter() - started) / 1_000
        assert each < 0.010
        times: list[float] = []
        for ref in refs:
            begun = time.perf_counter()
            await ref.call(ModuleActor.set_parameter, "seed", 1)
            await ref.call(ModuleActor.get_parameter, "seed")
            times.append((time.perf_counter() - begun) / 2)
        assert statistics.median(times) < 0.001
        for _ in range(1_100):
            await refs[0].call(ModuleActor.forward, {"question": "?"})
        tracemalloc.start()
        for _ in range(300):
            await refs[0].call(ModuleActor.forward, {"question": "?"})
        grown, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        # What was allocated replaced what fell out of the history of 1,000.
        assert grown < 5_000_000


async def test_a11_restart_takes_less_than_a_second() -> None:
    async with open_node() as node:
        await supervised(node, snapshots=Snapshots())
        times: list[float] = []
        for _ in range(3):
            begun = time.perf_counter()
            await crash(node)
            await ask(node)
            times.append(time.perf_counter() - begun)
        assert statistics.mean(times) < 1


async def test_a_module_that_is_stopped_in_its_restart_does_not_come_back() -> None:
    async with open_node() as node:
        supervisor = await node.start(DynamicSupervisor(intensity=10))
        modules = ModuleRegistry(node.registry, supervisor, lm=model())
        await modules.start(Predict("question -> answer"), "qa")
        ref = await node.registry.wait_for("qa")
        ref.exit("crash")
        await ref.wait_exit()
        await modules.stop("qa")
        assert node.registry.whereis("qa") is None
        counts = await supervisor.call(DynamicSupervisor.count_children)
        assert counts.active == 0
