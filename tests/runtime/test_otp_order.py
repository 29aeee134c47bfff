"""The order of messages, and selective receive: as observed on Erlang/OTP 25."""

import pytest
import trio

from dspex.runtime import Down, Exit, Leave, open_node
from tests.runtime.otp_server import Clock, Server, settled, start


async def test_one_senders_messages_arrive_in_order_across_kinds() -> None:
    async with open_node() as node:
        server, ref = await start(node)
        for n in range(0, 30, 3):
            await ref.cast(Server.note, n)
            await ref.send(n + 1)
            await ref.call(Server.note, n + 2)
        assert server.seen == list(range(30))


async def test_all_messages_come_before_the_down_and_the_exit() -> None:
    async with open_node() as node:
        server, ref = await start(node, trap_exit=True)
        _, peer = await start(node)

        async def watch(it: Server) -> object:
            it.link(peer)
            return it.monitor(peer)

        number = await ref.call(Server.run, watch)

        async def speak_and_die(_: Server) -> None:
            for n in range(3):
                await ref.send(n)
            raise Leave("boom")

        await peer.cast(Server.run, speak_and_die)
        await settled()
        assert server.seen[:3] == [0, 1, 2]
        assert isinstance(number, int)
        assert set(server.seen[3:]) == {Down(number, peer, "boom"), Exit(peer, "boom")}


async def test_selective_receive_leaves_the_rest_in_the_mailbox() -> None:
    async with open_node() as node:
        server, ref = await start(node)

        async def pick(it: Server) -> object:
            await it.ref.send(("b", 1))
            await it.ref.send(("a", 2))
            return await it.receive(lambda message: message != ("b", 1))

        assert await ref.call(Server.run, pick) == ("a", 2)
        await settled()
        assert server.seen == [("b", 1)]


async def test_selective_receive_waits_for_what_is_not_there_yet(
    autojump_clock: Clock,
) -> None:
    async with open_node() as node:
        server, ref = await start(node)

        async def pick(it: Server) -> object:
            it.send_after(1, "other")
            it.send_after(2, "wanted")
            return await it.receive(lambda message: message == "wanted")

        assert await ref.call(Server.run, pick) == "wanted"
        assert trio.current_time() == pytest.approx(2)
        await settled()
        assert server.seen == ["other"]

        async def wait_in_vain(it: Server) -> object:
            with pytest.raises(trio.TooSlowError):
                await it.receive(lambda _: True, timeout=1)
            return "gave up"

        assert await ref.call(Server.run, wait_in_vain) == "gave up"
