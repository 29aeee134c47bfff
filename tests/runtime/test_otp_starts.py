"""Starts, names and the server's timeout: as observed on Erlang/OTP 25."""

import pytest
import trio

from dspex.runtime import (
    IGNORE,
    TIMEOUT,
    AlreadyNamedError,
    AlreadyStartedError,
    Continue,
    Down,
    Exit,
    InitAnswer,
    Leave,
    NameTakenError,
    StartError,
    StartIgnoredError,
    StartTimeoutError,
    open_node,
    sys,
)
from tests.runtime.otp_server import Clock, Server, settled, start


class BadInit(Server):
    async def init(self) -> InitAnswer | None:
        raise Leave("nope")


class Ignoring(Server):
    async def init(self) -> InitAnswer | None:
        return IGNORE


class SlowInit(Server):
    async def init(self) -> InitAnswer | None:
        await trio.sleep(0.300)
        return None


async def test_init_failure_tells_the_starter_and_a_linked_parent() -> None:
    async with open_node() as node:
        child = BadInit()
        parent, ref = await start(node, trap_exit=True)
        error = await ref.call(Server.try_to_start, child)
        assert isinstance(error, StartError)
        assert error.reason == "nope"
        assert child.ended == []
        await settled()
        assert [it.reason for it in parent.seen if isinstance(it, Exit)] == ["nope"]


async def test_ignore_is_no_failure_and_a_linked_parent_sees_normal() -> None:
    async with open_node() as node:
        parent, ref = await start(node, trap_exit=True)
        error = await ref.call(Server.try_to_start, Ignoring())
        assert isinstance(error, StartIgnoredError)
        await settled()
        assert [it.reason for it in parent.seen if isinstance(it, Exit)] == ["normal"]


async def test_init_timeout_kills(autojump_clock: Clock) -> None:
    async with open_node() as node:
        before = len(node.processes())
        with pytest.raises(StartTimeoutError):
            await node.start(SlowInit(), name="nm", timeout=0.020)
        assert trio.current_time() == pytest.approx(0.020)
        assert len(node.processes()) == before
        assert node.registry.whereis("nm") is None


async def test_failed_init_frees_the_name() -> None:
    async with open_node() as node:
        with pytest.raises(StartError):
            await node.start(BadInit(), name="nm")
        assert node.registry.whereis("nm") is None


async def test_a_name_is_unique_and_the_second_init_does_not_run() -> None:
    async with open_node() as node:
        ref = await node.start(Server(), name="nm")
        with pytest.raises(AlreadyStartedError) as caught:
            await node.start(BadInit(), name="nm")
        assert caught.value.existing == ref


async def test_register_refuses_a_taken_name_and_a_second_one() -> None:
    async with open_node() as node:
        ref = await node.start(Server(), name="nm")
        _, other = await start(node)
        with pytest.raises(NameTakenError):
            node.registry.register("nm", other)
        with pytest.raises(AlreadyNamedError):
            node.registry.register("second", ref)
        node.registry.register("other", other)
        assert node.registry.whereis("other") == other


async def test_a_name_is_free_before_the_down_is_seen() -> None:
    found: list[object] = []

    class Heir(Server):
        async def handle_info(self, message: object) -> None:
            if isinstance(message, Down):
                found.append(self.node.registry.whereis("nm"))
                self.node.registry.register("nm", self.ref)

    async with open_node() as node:
        ref = await node.start(Server(), name="nm")
        heir = Heir()
        heir_ref = await node.start(heir)

        async def watch(_: Server) -> int:
            return heir.monitor(ref)

        await heir_ref.call(Server.run, watch)
        ref.exit("boom")
        await settled()
        assert found == [None]
        assert node.registry.whereis("nm") == heir_ref


async def test_handle_continue_runs_before_a_message_that_came_first() -> None:
    class Continuing(Server):
        async def init(self) -> InitAnswer | None:
            self.send_self("message")
            return Continue("go on")

        async def handle_continue(self, argument: object) -> None:
            self.seen.append(argument)

    async with open_node() as node:
        server = Continuing()
        await node.start(server)
        await settled()
        assert server.seen == ["go on", "message"]


class Idle(Server):
    async def init(self) -> InitAnswer | None:
        self.idle_timeout(0.020)
        return None


async def test_server_timeout_fires_once(autojump_clock: Clock) -> None:
    async with open_node() as node:
        server = Idle()
        await node.start(server)
        await trio.sleep(0.100)
        assert server.seen == [TIMEOUT]


async def test_a_question_of_sys_starts_the_server_timeout_anew(
    autojump_clock: Clock,
) -> None:
    async with open_node() as node:
        server = Idle()
        ref = await node.start(server)
        await trio.sleep(0.015)
        await sys.get_state(ref)
        await trio.sleep(0.015)
        assert server.seen == []
        await trio.sleep(0.006)
        assert server.seen == [TIMEOUT]


async def test_any_message_takes_the_server_timeout_back(autojump_clock: Clock) -> None:
    async with open_node() as node:
        server = Idle()
        ref = await node.start(server)
        await trio.sleep(0.010)
        await ref.send("hello")
        await trio.sleep(0.100)
        assert server.seen == ["hello"]
