"""Exit signals, stops and crashes: as observed on Erlang/OTP 25."""

import traceback

import pytest

from dspex.runtime import Exit, open_node
from tests.runtime.otp_server import Server, settled, start


async def test_an_exit_signal_ends_without_terminate_if_not_trapped() -> None:
    async with open_node() as node:
        server, ref = await start(node)
        ref.exit("shutdown")
        assert await ref.wait_exit() == "shutdown"
        assert server.ended == []


async def test_a_strangers_exit_signal_is_a_message_if_trapped() -> None:
    async with open_node() as node:
        server, ref = await start(node, trap_exit=True)
        ref.exit("shutdown")
        await settled()
        assert server.seen == [Exit(None, "shutdown")]
        assert ref.is_alive


@pytest.mark.parametrize("reason", ["shutdown", "normal", "boom"])
async def test_the_parents_exit_signal_runs_terminate_if_trapped(reason: str) -> None:
    async with open_node() as node:
        child = Server(trap_exit=True)
        _, parent = await start(node, trap_exit=True)

        async def end_child(it: Server) -> object:
            ref = await it.start_link(child)
            it.exit(ref, reason)
            return await ref.wait_exit()

        assert await parent.call(Server.run, end_child) == reason
        assert child.ended == [reason]


@pytest.mark.parametrize("trap_exit", [False, True])
async def test_kill_ends_with_killed_and_without_terminate(trap_exit: bool) -> None:
    async with open_node() as node:
        server, ref = await start(node, trap_exit=trap_exit)
        ref.exit("kill")
        assert await ref.wait_exit() == "killed"
        assert server.ended == []


async def test_stop_runs_terminate_even_if_not_trapping() -> None:
    async with open_node() as node:
        server, ref = await start(node)
        await ref.stop("bye")
        assert server.ended == ["bye"]
        assert ref.exit_reason == "bye"


async def test_own_crash_and_own_stop_run_terminate_even_if_not_trapping() -> None:
    async with open_node() as node:
        server, ref = await start(node)
        await ref.cast(Server.crash)
        reason = await ref.wait_exit()
        assert server.ended == [reason]
        server, ref = await start(node)
        await ref.cast(Server.leave, "boom")
        assert await ref.wait_exit() == "boom"
        assert server.ended == ["boom"]


async def test_a_crash_reason_carries_its_traceback() -> None:
    async with open_node() as node:
        _, ref = await start(node)
        await ref.cast(Server.crash)
        reason = await ref.wait_exit()
        assert isinstance(reason, ZeroDivisionError)
        assert "in crash" in "".join(traceback.format_exception(reason))
