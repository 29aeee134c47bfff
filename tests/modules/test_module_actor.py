import pytest
import trio
import trio.testing

from dspex.modules import (
    AdapterParseError,
    CodeExitError,
    ForwardQueueFullError,
    ForwardResultError,
    ForwardTimeoutError,
    MissingInputError,
    Module,
    ModuleActor,
    Predict,
    Prediction,
)
from dspex.providers.lm import LM, Capabilities
from dspex.runtime import ActorRef, CallTimeoutError, open_node
from dspex.testing import ScriptedLM


def chat(**outputs: object) -> str:
    parts = [f"[[ ## {name} ## ]]\n{value}" for name, value in outputs.items()]
    return "\n\n".join([*parts, "[[ ## completed ## ]]"])


def model(answer: str, *, delay: float = 0) -> ScriptedLM:
    return ScriptedLM(
        lambda _: answer, capabilities=Capabilities(json_schema=False), delay=delay
    )


class Boom(Module):
    async def forward(self, q: str) -> Prediction:
        raise ValueError(q)


class Nothing(Module):
    async def forward(self, q: str) -> int:
        return 7


async def test_forward_answers_and_is_counted() -> None:
    lm = model(chat(a="x"))
    async with open_node() as node:
        ref = await node.start(ModuleActor(Predict("q -> a"), lm), name="qa")
        prediction = await ref.call(ModuleActor.forward, {"q": "?"}, None)
        assert prediction.a == "x"
        state = await ref.call(ModuleActor.get_state)
        stats = state.metrics
        assert (stats.succeeded, stats.failed, stats.running) == (1, 0, 0)
        assert stats.usage == prediction.usage
        assert stats.usage.output_tokens == len(chat(a="x").split())
        (execution,) = state.executions
        assert execution.inputs == {"q": "?"}
        assert execution.prediction == prediction


class Leaves(Module):
    def __init__(self, how: type[BaseException]) -> None:
        self.how = how

    async def forward(self, q: str) -> Prediction:
        async with trio.open_nursery():
            raise self.how(q)


class Outer(Module):
    def __init__(self, inner: Module) -> None:
        self.inner = inner

    async def forward(self, q: str) -> Prediction:
        return await self.inner(q=q)


class OddError(BaseException):
    pass


@pytest.mark.parametrize("how", [SystemExit, OddError])
async def test_a_forward_that_would_end_the_process_fails_only_its_caller(
    how: type[BaseException],
) -> None:
    async with open_node() as node:
        ref = await node.start(ModuleActor(Outer(Leaves(how))), name="leaves")
        with pytest.raises(CodeExitError, match="the forward of Leaves raised"):
            await ref.call(ModuleActor.forward, {"q": "bye"})
        assert node.registry.whereis("leaves") is ref


async def test_forwards_run_side_by_side_up_to_the_limit(
    autojump_clock: trio.testing.MockClock,
) -> None:
    lm = model(chat(a="x"), delay=1)
    async with open_node() as node:
        ref = await node.start(ModuleActor(Predict("q -> a"), lm, max_concurrency=10))
        async with trio.open_nursery() as nursery:
            for _ in range(30):
                nursery.start_soon(_forward, ref)
        assert trio.current_time() == pytest.approx(3)


async def _forward(ref: ActorRef[ModuleActor]) -> Prediction:
    return await ref.call(ModuleActor.forward, {"q": "?"}, None, timeout=60)


@pytest.mark.parametrize(
    ("module", "error"),
    [
        (Boom(), ValueError),
        (Nothing(), ForwardResultError),
        (Predict("q, r -> a"), MissingInputError),
        (Predict("q -> a: int"), AdapterParseError),
    ],
)
async def test_failing_forward_fails_only_its_caller(
    module: Module, error: type[Exception]
) -> None:
    lm = model(chat(a="x"))
    async with open_node() as node:
        ref = await node.start(ModuleActor(module, lm))
        with pytest.raises(error):
            await ref.call(ModuleActor.forward, {"q": "?"}, None)
        assert ref.is_alive
        state = await ref.call(ModuleActor.get_state)
        assert state.metrics.failed == 1


async def test_queue_is_bounded_and_says_so(
    autojump_clock: trio.testing.MockClock,
) -> None:
    lm = model(chat(a="x"), delay=1)
    async with open_node() as node:
        ref = await node.start(
            ModuleActor(Predict("q -> a"), lm, max_concurrency=2, max_waiting=1)
        )
        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(_forward, ref)
            await trio.testing.wait_all_tasks_blocked()
            with pytest.raises(ForwardQueueFullError, match="2 run and 1 wait"):
                await _forward(ref)


async def test_forward_is_cancelled_at_its_deadline(
    autojump_clock: trio.testing.MockClock,
) -> None:
    lm = model(chat(a="x"), delay=100)
    async with open_node() as node:
        ref = await node.start(ModuleActor(Predict("q -> a"), lm, timeout=5))
        with pytest.raises(ForwardTimeoutError, match="after 5s"):
            await _forward(ref)
        assert trio.current_time() == pytest.approx(5)


async def test_forward_whose_caller_has_gone_is_not_run(
    autojump_clock: trio.testing.MockClock,
) -> None:
    lm = model(chat(a="x"), delay=10)
    async with open_node() as node:
        ref = await node.start(ModuleActor(Predict("q -> a"), lm, max_concurrency=1))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_forward, ref)
            await trio.testing.wait_all_tasks_blocked()
            with pytest.raises(CallTimeoutError):
                await ref.call(ModuleActor.forward, {"q": "late"}, None, timeout=1)
        await trio.sleep(60)
        assert len(lm.requests) == 1


async def test_model_can_be_given_with_the_call() -> None:
    first: LM = model(chat(a="first"))
    second: LM = model(chat(a="second"))
    async with open_node() as node:
        ref = await node.start(ModuleActor(Predict("q -> a"), first))
        prediction = await ref.call(ModuleActor.forward, {"q": "?"}, second)
        assert prediction.a == "second"
