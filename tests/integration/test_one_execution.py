"""A run is executed once at a time in a process, whatever starts it again."""

from collections import Counter
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from dspex.providers import Message, Request, Response
from dspex.providers.lm import Capabilities
from dspex.worker.app import Runtime
from dspex.worker.durable import RUNS
from dspex.worker.open_runtime import open_runtime
from tests.integration.chain_program import CHAIN, answers, query
from tests.integration.dspex_command import eventually


class HeldLM:
    """Answers when told to; a cancelled call ends only then, too."""

    def __init__(self) -> None:
        self.inner = answers()
        self.under_way: Counter[str] = Counter()
        self.most = 0
        self.asked: Counter[str] = Counter()
        self.let_go = trio.Event()

    @property
    def name(self) -> str:
        return self.inner.name

    @property
    def capabilities(self) -> Capabilities:
        return self.inner.capabilities

    async def complete(
        self,
        request: Request | str | Sequence[Message],
        *,
        timeout: float | None = None,
    ) -> Response:
        request = Request.of(request)
        key = request.fingerprint()
        self.asked[key] += 1
        self.under_way[key] += 1
        self.most = max(self.most, self.under_way[key])
        try:
            await self.let_go.wait()
        finally:
            with trio.move_on_after(5, shield=True):
                await self.let_go.wait()
            self.under_way[key] -= 1
        return await self.inner.complete(request, timeout=timeout)


@asynccontextmanager
async def same_runs_actor(rt: Runtime) -> AsyncGenerator[None]:
    """Fail when the actor that executes runs was restarted meanwhile."""
    registry = rt.node.registry
    before = await registry.wait_for(RUNS)
    yield
    assert registry.whereis(RUNS) == before
    assert before.is_alive


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "runs.db"


async def test_a_key_given_again_while_its_run_is_under_way_starts_nothing(
    store: Path,
) -> None:
    lm = HeldLM()
    async with open_runtime(lm, store=store) as rt, same_runs_actor(rt):
        first = await rt.submit(CHAIN, {"ticket": "x"}, key="mine")
        assert await eventually(lambda: lm.asked.total() == 1, seconds=5)
        assert await rt.submit(CHAIN, {"ticket": "x"}, key="mine") == first
        await trio.sleep(0.1)
        lm.let_go.set()
        assert (await rt.result(first, timeout=10)).status == "succeeded"
        # Another worker's key, whose run this one has claimed, is the same case.
        assert await rt.submit(CHAIN, {"ticket": "x"}, key="mine") == first
    assert set(lm.asked.values()) == {1}


async def test_a_key_given_many_times_at_once_is_one_execution(store: Path) -> None:
    lm = answers(delay=0.05)
    ids: set[str] = set()
    async with open_runtime(lm, store=store) as rt, same_runs_actor(rt):

        async def submit() -> None:
            ids.add(await rt.submit(CHAIN, {"ticket": "x"}, key="mine"))

        async with trio.open_nursery() as nursery:
            for _ in range(8):
                nursery.start_soon(submit)
        (run,) = ids
        assert (await rt.result(run, timeout=10)).status == "succeeded"
    assert len(lm.requests) == 3
    assert query(store, "SELECT count(*), max(epoch) FROM run") == [(1, 1)]


async def test_a_run_claimed_again_after_a_lost_lease_waits_for_its_former_execution(
    store: Path,
) -> None:
    lm = HeldLM()
    async with (
        open_runtime(lm, store=store, lease_seconds=0.2) as rt,
        same_runs_actor(rt),
    ):
        run = await rt.submit(CHAIN, {"ticket": "x"})
        assert await eventually(lambda: lm.asked.total() == 1, seconds=5)
        for epoch in (2, 3):
            # What another worker does that took this one for dead.
            ((worker,),) = query(store, "SELECT id FROM worker")
            assert await rt.journal.bury([worker]) == 1

            def is_claimed(epoch: int = epoch) -> bool:
                found = query(store, "SELECT state, epoch FROM run")
                return found == [("running", epoch)]

            assert await eventually(is_claimed, seconds=5)
            await trio.sleep(0.1)
            assert lm.asked.total() == 1
        lm.let_go.set()
        assert (await rt.result(run, timeout=10)).status == "succeeded"
    assert lm.most == 1
    # The call under way when the lease was lost was not journaled: it is made again.
    assert sorted(lm.asked.values()) == [1, 1, 2]
