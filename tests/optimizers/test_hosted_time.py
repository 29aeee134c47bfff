"""How long an optimizer of dspy may take, without processes."""

import pytest
import trio

from dspex.modules import Predict
from dspex.modules.optimizers import Dataset, HostedOptimizer
from dspex.runtime import ActorRef, Node, open_node
from dspex.runtime.bridge import DspyPool, OptimizedProgram, PoolSettings
from dspex.testing import ScriptedLM

MADE = OptimizedProgram(
    state={},
    predictors={"self": {"demos": [], "instructions": "Be brief."}},
    score_before=0.0,
    score_after=100.0,
    usage={},
    model_calls=0,
)


class SlowPool(DspyPool):
    """One that has a process after two hours, and a program after as many more."""

    allowed: float | None = None

    async def init(self) -> None:
        await trio.lowlevel.checkpoint()

    def _dispatch(self) -> None:
        self.spawn(self._serve)

    async def _serve(self) -> None:
        await trio.sleep(14_400)
        (job,) = self._queue._jobs  # pyright: ignore[reportPrivateUsage]
        self.allowed = job.timeout
        job.answer.reply(MADE)


async def start(node: Node, pool: DspyPool) -> ActorRef[DspyPool]:
    return await node.start(pool)


@pytest.mark.parametrize(("timeout", "allowed"), [(None, 9_000.0), (20.0, 20.0)])
async def test_an_optimizer_has_the_time_of_its_pool_or_its_own_from_its_start_on(
    timeout: float | None, allowed: float, autojump_clock: trio.testing.MockClock
) -> None:
    data = Dataset.from_rows([{"q": "a", "a": "b"}], inputs=["q"])
    slow = SlowPool(PoolSettings(optimize_timeout=9_000))
    async with open_node() as node:
        pool = await start(node, slow)
        optimizer = HostedOptimizer(
            "dspy.MIPROv2", metric="exact_match:a", pool=pool, timeout=timeout
        )
        made = await optimizer.compile(Predict("q -> a"), data, lm=ScriptedLM([]))
    assert made.program.signature.instructions == "Be brief."
    assert slow.allowed == allowed
