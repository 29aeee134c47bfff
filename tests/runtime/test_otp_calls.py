"""Calls, casts and plain messages: as observed on Erlang/OTP 25."""

import pytest
import trio

from dspex.runtime import (
    BadReturnValueError,
    CalleeExitedError,
    CallingSelfError,
    CallTimeoutError,
    InitAnswer,
    NoProcessError,
    StartError,
    open_node,
)
from tests.runtime.otp_server import Clock, Server, dead, start


async def test_call_timeout_raises_in_the_caller_and_the_server_lives(
    autojump_clock: Clock,
) -> None:
    async with open_node() as node:
        _, ref = await start(node)
        with pytest.raises(CallTimeoutError):
            await ref.call(Server.sleep, 0.060, timeout=0.020)
        assert ref.is_alive


async def test_a_late_reply_is_dropped(autojump_clock: Clock) -> None:
    async with open_node() as node:
        _, slow = await start(node)
        caller, ref = await start(node)

        async def ask(_: Server) -> object:
            with pytest.raises(CallTimeoutError):
                await slow.call(Server.sleep, 0.060, timeout=0.020)
            await trio.sleep(0.120)
            return await slow.call(Server.echo, "next")

        assert await ref.call(Server.run, ask) == "next"
        assert caller.seen == []


async def test_a_reply_may_come_later_from_elsewhere(autojump_clock: Clock) -> None:
    async with open_node() as node:
        _, ref = await start(node)
        assert await ref.call(Server.later, 0.010) == "deferred"


async def test_call_to_a_dead_actor_or_an_unknown_name_fails_at_once(
    autojump_clock: Clock,
) -> None:
    async with open_node() as node:
        ref = await dead(node)
        for nobody in (ref, node.named("nobody", Server)):
            with pytest.raises(NoProcessError):
                await nobody.call(Server.echo, 1)
        assert trio.current_time() == 0


async def test_the_servers_death_gives_the_caller_its_reason() -> None:
    async with open_node() as node:
        _, ref = await start(node)
        with pytest.raises(CalleeExitedError) as crashed:
            await ref.call(Server.crash)
        assert isinstance(crashed.value.reason, ZeroDivisionError)
        _, ref = await start(node)
        with pytest.raises(CalleeExitedError) as left:
            await ref.call(Server.leave, "boom")
        assert left.value.reason == "boom"


async def test_stop_with_reply_answers_after_terminate() -> None:
    async with open_node() as node:
        server, ref = await start(node)
        assert await ref.call(Server.stop_with, "normal", "val") == "val"
        assert server.ended == ["normal"]
        assert await ref.wait_exit() == "normal"


async def test_call_to_self_fails_instead_of_hanging() -> None:
    async with open_node() as node:
        _, ref = await start(node)
        with pytest.raises(CalleeExitedError) as caught:
            await ref.call(Server.call_itself)
        assert isinstance(caught.value.reason, CallingSelfError)


async def test_a_bad_return_value_ends_the_server() -> None:
    class Garbage(Server):
        async def handle_info(self, message: object) -> None:
            return message  # type: ignore[return-value]

    async with open_node() as node:
        ref = await node.start(Garbage())
        await ref.send("garbage")
        reason = await ref.wait_exit()
        assert isinstance(reason, BadReturnValueError)
        assert reason.value == "garbage"


async def test_a_bad_answer_of_init_fails_the_start() -> None:
    class Garbage(Server):
        async def init(self) -> InitAnswer | None:
            return "garbage"  # type: ignore[return-value]

    async with open_node() as node:
        with pytest.raises(StartError) as caught:
            await node.start(Garbage())
        assert isinstance(caught.value.reason, BadReturnValueError)


async def test_cast_to_a_dead_actor_or_an_unknown_name_is_dropped() -> None:
    async with open_node() as node:
        ref = await dead(node)
        for nobody in (ref, node.named("nobody", Server)):
            await nobody.cast(Server.note, 1)
            nobody.cast_nowait(Server.note, 1)


async def test_send_to_a_dead_actor_is_ignored_and_to_an_unknown_name_fails() -> None:
    async with open_node() as node:
        ref = await dead(node)
        await ref.send("hello")
        ref.send_nowait("hello")
        nobody = node.named("nobody", Server)
        with pytest.raises(NoProcessError):
            await nobody.send("hello")
        with pytest.raises(NoProcessError):
            nobody.send_nowait("hello")
