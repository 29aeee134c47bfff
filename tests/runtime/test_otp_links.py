"""Monitors and links: as observed on Erlang/OTP 25."""

import pytest
import trio

from dspex.runtime import ActorRef, Down, Exit, open_node
from tests.runtime.otp_server import Server, dead, settled, start


async def test_each_monitor_gets_exactly_one_down() -> None:
    async with open_node() as node:
        _, target = await start(node)
        watcher, ref = await start(node)

        numbers: list[int] = []

        async def watch(it: Server) -> None:
            numbers.extend(it.monitor(target) for _ in range(3))
            it.demonitor(numbers.pop())

        await ref.call(Server.run, watch)
        target.exit("boom")
        await settled()
        assert watcher.seen == [Down(number, target, "boom") for number in numbers]


async def test_monitor_of_a_dead_actor_or_unknown_name_tells_noproc_at_once() -> None:
    async with open_node() as node:
        gone = await dead(node)
        watcher, ref = await start(node)
        nobody = node.named("nobody", Server)

        async def watch(it: Server) -> object:
            return [it.monitor(gone), it.monitor(nobody)]

        await ref.call(Server.run, watch)
        await settled()
        downs = [it for it in watcher.seen if isinstance(it, Down)]
        assert [(down.ref, down.reason) for down in downs] == [
            (gone, "noproc"),
            (nobody, "noproc"),
        ]


async def test_demonitor_takes_a_down_out_of_the_mailbox() -> None:
    async with open_node() as node:
        _, target = await start(node)
        watcher, ref = await start(node)

        async def watch(it: Server) -> object:
            number = it.monitor(target)
            target.exit("boom")
            await target.wait_exit()
            it.demonitor(number)
            return None

        await ref.call(Server.run, watch)
        await settled()
        assert watcher.seen == []


async def link(ref: ActorRef[Server], peer: ActorRef[Server], times: int = 1) -> None:
    async def tie(it: Server) -> None:
        for _ in range(times):
            it.link(peer)

    await ref.call(Server.run, tie)


@pytest.mark.parametrize(("reason", "dies"), [("boom", True), ("normal", False)])
async def test_a_link_passes_an_abnormal_end_on(reason: str, dies: bool) -> None:
    async with open_node() as node:
        server, ref = await start(node)
        _, peer = await start(node)
        await link(ref, peer)
        await peer.cast(Server.leave, reason)
        await settled()
        assert (not ref.is_alive) is dies
        assert ref.exit_reason == ("boom" if dies else None)
        assert server.ended == []


@pytest.mark.parametrize("reason", ["boom", "normal"])
async def test_a_link_is_a_message_if_trapped(reason: str) -> None:
    async with open_node() as node:
        server, ref = await start(node, trap_exit=True)
        _, peer = await start(node)
        await link(ref, peer)
        await peer.cast(Server.leave, reason)
        await settled()
        assert server.seen == [Exit(peer, reason)]


async def test_a_link_is_a_set() -> None:
    async with open_node() as node:
        server, ref = await start(node, trap_exit=True)
        _, peer = await start(node)
        await link(ref, peer, times=2)
        peer.exit("kill")
        await settled()
        assert server.seen == [Exit(peer, "killed")]


async def test_an_unlinked_actor_hears_nothing() -> None:
    async with open_node() as node:
        server, ref = await start(node, trap_exit=True)
        _, peer = await start(node)
        await link(ref, peer)

        async def untie(it: Server) -> None:
            it.unlink(peer)

        await ref.call(Server.run, untie)
        peer.exit("kill")
        await settled()
        assert server.seen == []


async def test_link_to_a_dead_actor_is_a_noproc_exit_if_trapped() -> None:
    async with open_node() as node:
        gone = await dead(node)
        server, ref = await start(node, trap_exit=True)
        await link(ref, gone)
        await settled()
        assert server.seen == [Exit(gone, "noproc")]


async def test_a_peer_that_exits_with_kill_by_itself_can_be_trapped() -> None:
    async with open_node() as node:
        server, ref = await start(node, trap_exit=True)
        _, peer = await start(node)
        await link(ref, peer)
        await peer.cast(Server.leave, "kill")
        await settled()
        assert server.seen == [Exit(peer, "kill")]
        assert ref.is_alive


async def test_exit_normal_is_ignored_by_others_and_ends_oneself() -> None:
    async with open_node() as node:
        _, ref = await start(node)
        ref.exit("normal")
        await settled()
        assert ref.is_alive

        async def leave(it: Server) -> None:
            it.exit(it.ref, "normal")
            await trio.sleep_forever()

        await ref.cast(Server.run, leave)
        assert await ref.wait_exit() == "normal"
