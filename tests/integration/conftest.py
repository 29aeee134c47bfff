"""Fixtures of several of these tests."""

import time
import uuid
from collections.abc import AsyncIterator, Iterator

import pytest
import trio

from dspex.runtime import ActorRef, Node, open_node
from dspex.runtime.bridge import DspyPool, Limits, PoolSettings
from tests.integration.bridge_processes import HOSTED, is_whole, processes_with, run


@pytest.fixture
def strays(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Check that a test leaves no process behind, wherever it may hang."""
    mark = f"DSPEX_TEST={uuid.uuid4()}"
    monkeypatch.setenv(*mark.split("="))
    yield
    deadline = time.monotonic() + 3
    while processes_with(mark) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert processes_with(mark) == []


@pytest.fixture
async def node(strays: None) -> AsyncIterator[Node]:
    """A node, whose processes are gone when it is."""
    async with open_node() as node:
        yield node


@pytest.fixture
async def pool(node: Node) -> ActorRef[DspyPool]:
    """A pool that finds the functions of `hosted`."""
    settings = PoolSettings(spares=0)
    return await node.start(DspyPool(settings, search_path=[HOSTED]), name="pool")


@pytest.fixture
async def robust_pool(node: Node) -> AsyncIterator[ActorRef[DspyPool]]:
    """A larger one that works after the test, has its size, and no zombie."""
    settings = PoolSettings(max_size=4, limits=Limits(processes=8))
    ref = await node.start(DspyPool(settings, search_path=[HOSTED]), name="pool")
    yield ref
    assert await run(ref, "length", text="abc") == {"length": 3}
    with trio.fail_after(10):
        while not await is_whole(ref):
            await trio.sleep(0.02)
