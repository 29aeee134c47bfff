"""Approval hooks: who is asked before a tool runs, and may refuse."""

from typing import Any

import pytest
import trio
import trio.testing

from dspex.modules import Tool, ToolRegistry
from dspex.modules.tools.errors import ToolDeniedError
from dspex.runtime import open_node


def search(query: str) -> str:
    return query


@pytest.mark.parametrize(
    ("answer", "problem"), [(False, "was not allowed"), ("too dear", "too dear")]
)
async def test_approval_hook_can_refuse(answer: bool | str, problem: str) -> None:
    ran = False

    def act() -> None:
        nonlocal ran
        ran = True

    async def approve(asked: Tool, arguments: Any) -> bool | str:
        assert asked.name == "act"
        return answer

    with pytest.raises(ToolDeniedError, match=problem):
        await Tool(act, approve=approve).run({})
    assert not ran


async def test_an_approval_hook_that_raises_is_no_yes_and_hurts_no_neighbour() -> None:
    async def approve(asked: Tool, arguments: Any) -> bool:
        raise KeyError("no such policy")

    ran: list[int] = []

    async def act() -> None:
        ran.append(1)

    guarded = Tool(act, approve=approve)
    async with open_node() as node:
        registry = await node.start(ToolRegistry({"act": guarded}))
        with pytest.raises(ToolDeniedError, match="approval could not be asked for"):
            await registry.call(ToolRegistry.run_tool, "act", dict[str, object]())
        assert registry.is_alive
    assert ran == []


async def test_an_approval_that_never_comes_is_a_refusal(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async def ask(given: Tool, arguments: object) -> bool:
        await trio.sleep_forever()
        return True

    asking = Tool(search, approve=ask, approve_timeout=60)
    with pytest.raises(ToolDeniedError, match="nobody answered within 60s"):
        await asking.run({"query": "x"})
    assert trio.current_time() == pytest.approx(60)


async def test_what_is_approved_when_its_caller_has_gone_is_not_run() -> None:
    ran: list[str] = []
    asked, approved = trio.Event(), trio.Event()

    async def ask(given: Tool, arguments: object) -> bool:
        asked.set()
        await approved.wait()
        return True

    async def pay(to: str) -> None:
        ran.append(to)

    async with open_node() as node:
        registry = await node.start(ToolRegistry())
        await registry.call(ToolRegistry.register, Tool(pay, approve=ask))
        found = await registry.call(ToolRegistry.lookup, "pay")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(found.run, {"to": "Eve"})
            await asked.wait()
            nursery.cancel_scope.cancel()
        approved.set()
        await trio.testing.wait_all_tasks_blocked()
    assert ran == []
