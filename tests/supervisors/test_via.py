"""Children that are registered elsewhere than in their node's registry: OTP's `via`."""

from typing import Any

import pytest
import trio.testing

from dspex.runtime import Actor, ActorRef, NameTakenError, Registry, open_node
from dspex.supervisors import (
    ChildSpec,
    ChildSpecError,
    ChildStartError,
    DynamicSupervisor,
    PartitionSupervisor,
    Supervisor,
    partition_name,
)

AnyRef = ActorRef[Any]  # Any: a registry holds actors of every class


class Counter(Actor):
    def __init__(self) -> None:
        self.value = 0

    async def add(self, n: int) -> int:
        self.value += n
        return self.value

    async def boom(self) -> None:
        raise ZeroDivisionError("boom")


class Journaling:
    """A registry that is no Registry: it notes who came and went."""

    def __init__(self) -> None:
        self.refs: dict[str, AnyRef] = {}
        self.log: list[str] = []

    def whereis(self, name: str) -> AnyRef | None:
        return self.refs.get(name)

    def register(self, name: str, ref: AnyRef) -> None:
        if name in self.refs:
            raise NameTakenError(name)
        self.refs[name] = ref
        self.log.append(f"+{name}")
        ref.port.add_name(self, name)

    def announce(self, name: str) -> None:
        self.log.append(f"!{name}")

    def unregister(self, name: str, ref: AnyRef) -> None:
        del self.refs[name]
        self.log.append(f"-{name}")


async def test_a_restart_registers_in_the_specs_registry_again() -> None:
    mine = Journaling()
    async with open_node() as node:
        spec = ChildSpec("c", Counter, name="counter", registry=mine)
        await node.start(Supervisor([spec]))
        named = node.named("counter", Counter, registry=mine)
        assert await named.call(Counter.add, 2) == 2
        await named.cast(Counter.boom)
        await trio.testing.wait_all_tasks_blocked()
        assert await named.call(Counter.add, 3) == 3
        assert named.name == "counter"
        assert node.registry.whereis("counter") is None
    assert mine.log == ["+counter", "!counter", "-counter"] * 2


async def test_a_name_taken_there_fails_the_start_and_one_taken_here_does_not() -> None:
    mine = Registry()
    spec = ChildSpec("c", Counter, name="counter", registry=mine)
    async with open_node() as node:
        await node.start(Counter(), name="counter")
        root = await node.start(DynamicSupervisor())
        first = await root.call(DynamicSupervisor.start_child, spec)
        assert mine.whereis("counter") == first
        with pytest.raises(ChildStartError, match="counter"):
            await root.call(DynamicSupervisor.start_child, spec)
        assert first is not None
        assert first.is_alive


async def test_partitions_go_where_their_spec_says() -> None:
    mine = Registry()
    spec = ChildSpec("c", Counter, name="counter", registry=mine)
    async with open_node() as node:
        await node.start(PartitionSupervisor(spec, partitions=3))
        assert mine.names() == ["counter-0", "counter-1", "counter-2"]
        assert node.registry.names() == []
        names = {partition_name("counter", f"key {n}", 3) for n in range(50)}
        assert names == set(mine.names())
        before = {name: mine.whereis(name) for name in mine.names()}
        unlucky = partition_name("counter", "key 7", 3)
        await node.named(unlucky, Counter, registry=mine).cast(Counter.boom)
        await trio.testing.wait_all_tasks_blocked()
        changed = [n for n in mine.names() if mine.whereis(n) != before[n]]
        assert changed == [unlucky]


def test_a_registry_needs_a_name() -> None:
    with pytest.raises(ChildSpecError, match="name"):
        ChildSpec("c", Counter, registry=Registry())
