from collections.abc import Awaitable, Callable

import pytest
import trio
import trio.testing

from dspex.modules import ModuleRef, ModuleRegistry, Predict, ToolRegistry, tool
from dspex.providers.lm import Capabilities
from dspex.runtime import CallTimeoutError, Node, open_node, sys
from dspex.runtime.sys import AnyRef
from dspex.supervisors import DynamicSupervisor
from dspex.testing import ScriptedLM


async def start_module(node: Node, *, patience: float, takes: float) -> ModuleRef:
    lm = ScriptedLM(
        lambda _: "[[ ## a ## ]]\nx",
        capabilities=Capabilities(json_schema=False),
        delay=takes,
    )
    supervisor = await node.start(DynamicSupervisor())
    modules = ModuleRegistry(node.registry, supervisor, lm=lm, timeout=patience)
    return await modules.start(Predict("q -> a"), "qa", max_concurrency=1, timeout=60)


async def wait_module(node: Node) -> AnyRef:
    return await node.registry.wait_for("qa")


async def forward(module: ModuleRef) -> object:
    return (await module.forward(q="?")).a


async def swap(module: ModuleRef) -> object:
    return await module.swap(Predict("q -> a"))


@pytest.mark.parametrize("ask", [forward, swap])
async def test_a_suspended_module_is_waited_for_and_then_named(
    ask: Callable[[ModuleRef], Awaitable[object]],
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with open_node() as node:
        module = await start_module(node, patience=20, takes=1)
        await sys.suspend(await wait_module(node))
        with pytest.raises(CallTimeoutError, match="'qa' timed out after 20s"):
            await ask(module)
        assert trio.current_time() == pytest.approx(20)


async def test_a_module_that_goes_on_in_time_answers_those_who_waited(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with open_node() as node:
        module = await start_module(node, patience=20, takes=15)
        ref = await wait_module(node)
        await sys.suspend(ref)
        found: list[object] = []

        async def ask() -> None:
            found.append(await forward(module))

        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(ask)
            await trio.sleep(19)
            await sys.resume(ref)
        # One at a time: the last had its answer long after its 20 seconds.
        assert found == ["x"] * 3
        assert trio.current_time() == pytest.approx(19 + 3 * 15)


async def test_a_call_that_nobody_took_is_not_run_later(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with open_node() as node:
        module = await start_module(node, patience=20, takes=1)
        ref = await wait_module(node)
        await sys.suspend(ref)
        with pytest.raises(CallTimeoutError):
            await forward(module)
        await sys.resume(ref)
        assert await forward(module) == "x"
        assert (await module.get_state()).metrics.succeeded == 1


async def test_a_suspended_registry_ends_the_call_of_a_tool(
    autojump_clock: trio.testing.MockClock,
) -> None:
    @tool(timeout=7)
    async def search(query: str) -> str:
        """Search."""
        return query

    async with open_node() as node:
        registry = await node.start(ToolRegistry(), name="tools")
        await registry.call(ToolRegistry.register, search)
        found = await registry.call(ToolRegistry.lookup, "search")
        await sys.suspend(registry)
        with pytest.raises(CallTimeoutError, match="'tools' timed out after 7s"):
            await found.run({"query": "q"})
        assert trio.current_time() == pytest.approx(7)
