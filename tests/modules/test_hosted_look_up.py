"""What a backend of hosted steps does when no process looks a module up in time, or
the bridge starts late.
"""

import pytest
import trio

from dspex import Program, Step, open_runtime
from dspex.modules.hosted import BRIDGE_NAME, HostedBackend
from dspex.runtime import Node, open_node
from dspex.runtime.bridge import DspyPool, PoolSettings
from dspex.testing import ScriptedLM

STEP = Step(module="some:function", backend="python", signature="a -> b")


class BusyPool(DspyPool):
    """One whose processes are never free."""

    async def init(self) -> None:
        self.spawn(self._keep_house)

    def _dispatch(self) -> None:
        pass


async def started() -> None:
    await trio.lowlevel.checkpoint()


@pytest.mark.parametrize(
    "settings",
    [
        PoolSettings(queue_timeout=5),
        PoolSettings(queue_timeout=600),
    ],
)
async def test_a_module_that_nobody_looks_up_in_time_is_for_the_step_to_tell(
    settings: PoolSettings, autojump_clock: trio.testing.MockClock
) -> None:
    async with open_node() as node:
        backend = await busy_backend(node, settings)
        await backend.prepare("p/a", STEP)
        assert trio.current_time() <= 61
        # It is looked up again for the next one.
        before = trio.current_time()
        await backend.prepare("q/a", STEP)
        assert trio.current_time() > before


async def test_a_full_pool_is_for_the_step_to_tell(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with open_node() as node, trio.open_nursery() as nursery:
        backend = await busy_backend(node, PoolSettings(queue_limit=1))
        nursery.start_soon(backend.prepare, "p/a", STEP)
        await trio.testing.wait_all_tasks_blocked()
        before = trio.current_time()
        await backend.prepare("q/a", STEP)
        assert trio.current_time() == before
        nursery.cancel_scope.cancel()


async def busy_backend(node: Node, settings: PoolSettings) -> HostedBackend:
    await node.start(BusyPool(settings), name=BRIDGE_NAME)
    return HostedBackend(
        registry=node.registry, start_bridge=started, lm=ScriptedLM([])
    )


class LatePool(BusyPool):
    """One that takes long to import dspy."""

    async def init(self) -> None:
        await trio.sleep(500)


async def test_a_bridge_starts_as_late_as_its_settings_let_it(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock
) -> None:
    monkeypatch.setattr("dspex.worker.open_runtime.DspyPool", LatePool)
    settings = PoolSettings(start_timeout=300)
    async with open_runtime(ScriptedLM([]), pool=settings) as rt:
        await rt.load(Program(name="late", steps={"a": STEP}))
        assert trio.current_time() >= 500
