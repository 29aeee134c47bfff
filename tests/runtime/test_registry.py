"""Names, properties, groups, custom registries, and refs that follow a name."""

import pytest
import trio
import trio.testing

from dspex.runtime import (
    Actor,
    ActorRef,
    AlreadyStartedError,
    Exit,
    Groups,
    NameTakenError,
    NameWaitTimeoutError,
    NoProcessError,
    Registry,
    open_node,
)
from dspex.supervisors import supervision_tree


class Subscriber(Actor):
    def __init__(self) -> None:
        self.seen: list[object] = []

    async def handle_info(self, message: object) -> None:
        self.seen.append(message)

    async def get(self) -> list[object]:
        return self.seen


async def test_wait_for_gives_an_actor_only_after_its_init(
    autojump_clock: trio.testing.MockClock,
) -> None:
    class Slow(Subscriber):
        async def init(self) -> None:
            await trio.sleep(2)

    async with open_node() as node, trio.open_nursery() as nursery:
        nursery.start_soon(lambda: node.start(Slow(), name="slow"))
        await trio.testing.wait_all_tasks_blocked()
        assert node.registry.whereis("slow") is not None
        ref = await node.registry.wait_for("slow")
        assert ref.is_serving
        assert trio.current_time() == pytest.approx(2)
        with pytest.raises(NameWaitTimeoutError):
            await node.registry.wait_for("nobody", timeout=1)


async def test_of_100_starters_of_one_name_one_wins() -> None:
    won: list[object] = []
    lost: list[object] = []

    async with open_node() as node:

        async def start() -> None:
            try:
                won.append(await node.start(Subscriber(), name="nm"))
            except AlreadyStartedError as error:
                lost.append(error.existing)

        async with trio.open_nursery() as nursery:
            for _ in range(100):
                nursery.start_soon(start)
        assert len(won) == 1
        assert lost == won * 99
        assert len(node.processes()) == 1


async def test_properties_go_with_the_name() -> None:
    async with open_node() as node:
        ref = await node.start(Subscriber(), name="nm")
        node.registry.set_property("nm", "port", 8080)
        assert node.registry.properties("nm") == {"port": 8080}
        await ref.stop()
        assert node.registry.properties("nm") == {}
        with pytest.raises(NoProcessError):
            node.registry.set_property("nm", "port", 1)


async def test_a_custom_registry_holds_names_of_its_own() -> None:
    mine = Registry()
    async with open_node() as node:
        ref = await node.start(Subscriber(), name="nm", registry=mine)
        assert node.registry.whereis("nm") is None
        assert mine.whereis("nm") == ref
        assert ref.name == "nm"
        with pytest.raises(AlreadyStartedError):
            await node.start(Subscriber(), name="nm", registry=mine)
        node.registry.register("also here", ref)
        await ref.stop()
        assert mine.names() == node.registry.names() == []


async def test_an_actor_can_give_its_name_up() -> None:
    async with open_node() as node:
        first = await node.start(Subscriber(), name="nm")
        node.registry.unregister("nm", first)
        second = await node.start(Subscriber(), name="nm")
        node.registry.register("old", first)
        with pytest.raises(NameTakenError):
            node.registry.register("nm", first)
        await first.stop()
        assert node.registry.whereis("nm") == second


async def test_publish_reaches_every_member_once_and_no_dead_one() -> None:
    groups = Groups()
    async with open_node() as node:
        refs = [await node.start(Subscriber()) for _ in range(3)]
        for ref in refs:
            groups.join("news", ref)
            groups.join("news", ref)
        groups.join("sport", refs[0])
        groups.leave("news", refs[1])
        assert await groups.publish("news", "hello") == 2
        seen = [await ref.call(Subscriber.get) for ref in refs]
        assert seen == [["hello"], [], ["hello"]]
        refs[0].exit("kill")
        await refs[0].wait_exit()
        assert groups.members("news") == [refs[2]]
        assert groups.keys() == ["news"]
        assert await groups.publish("sport", "goal") == 0
        with pytest.raises(NoProcessError):
            groups.join("news", refs[0])


async def test_a_named_ref_follows_its_name() -> None:
    async with open_node() as node:
        named = node.named("nm", Subscriber)
        assert not named.is_alive
        first = await node.start(Subscriber(), name="nm")
        await named.send(1)
        assert await named.call(Subscriber.get) == [1]
        assert named == first
        await first.stop()
        await node.start(Subscriber(), name="nm")
        assert await named.call(Subscriber.get) == []


async def test_a_name_that_nobody_has_can_be_linked_unlinked_and_looked_at() -> None:
    class Linking(Subscriber):
        trap_exit = True

        async def link_and_unlink(self, ref: ActorRef[Subscriber]) -> None:
            self.link(ref)
            self.unlink(ref)
            self.exit(ref, "boom")

    async with open_node() as node:
        nobody = node.named("nobody", Subscriber)
        ref = await node.start(Linking())
        await ref.call(Linking.link_and_unlink, nobody)
        assert await ref.call(Linking.get) == [Exit(None, "noproc")]
        assert nobody.state == "dead"
        assert await nobody.wait_exit() == "noproc"
        assert "dead" in str(supervision_tree(nobody))
