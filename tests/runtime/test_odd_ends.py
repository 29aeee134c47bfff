"""Ends that cross a start, a link or a monitor, each as on Erlang/OTP 25."""

from collections.abc import Awaitable, Callable

import pytest
import trio
import trio.testing

from dspex.runtime import (
    Actor,
    ActorRef,
    AlreadyStartedError,
    CallingSelfError,
    Down,
    Exit,
    StartError,
    StartTimeoutError,
    open_node,
)

Clock = trio.testing.MockClock
Work = Callable[["Server"], Awaitable[object]]


class Server(Actor):
    """A process that does what it is told, in its init and in its calls."""

    def __init__(
        self,
        at_start: Work | None = None,
        *,
        trap_exit: bool = False,
        terminate_seconds: float = 0.0,
    ) -> None:
        self.trap_exit = trap_exit
        self.seen: list[object] = []
        self._at_start = at_start
        self._terminate_seconds = terminate_seconds

    async def init(self) -> None:
        if self._at_start is not None:
            await self._at_start(self)

    async def handle_info(self, message: object) -> None:
        self.seen.append(message)

    async def terminate(self, reason: object) -> None:
        await trio.sleep(self._terminate_seconds)

    async def run(self, work: Work) -> object:
        return await work(self)


def dying_of(reason: str) -> Work:
    async def begin(it: Server) -> None:
        it.ref.exit(reason)
        await trio.sleep(1)

    return begin


async def sleeping(it: Server) -> None:
    await trio.sleep(1)


@pytest.mark.parametrize("reason", ["boom", "kill"])
async def test_a_trapping_starter_hears_of_a_signal_in_init_by_the_failed_start_only(
    reason: str, autojump_clock: Clock
) -> None:
    async def begin(it: Server) -> object:
        with pytest.raises(StartError) as caught:
            await it.start_link(Server(dying_of(reason)))
        return caught.value.reason

    parent = Server(trap_exit=True)
    async with open_node() as node:
        ref = await node.start(parent)
        found = await ref.call(Server.run, begin)
        assert found == ("killed" if reason == "kill" else reason)
        await trio.testing.wait_all_tasks_blocked()
        assert parent.seen == []


async def test_a_starter_that_does_not_trap_dies_of_a_signal_in_its_childs_init(
    autojump_clock: Clock,
) -> None:
    async def begin(it: Server) -> object:
        return await it.start_link(Server(dying_of("boom")))

    async with open_node() as node:
        ref = await node.start(Server())
        await ref.cast(Server.run, begin)
        assert await ref.wait_exit() == "boom"


@pytest.mark.parametrize("trap_exit", [False, True])
async def test_a_start_that_takes_too_long_leaves_its_starter_alone(
    trap_exit: bool, autojump_clock: Clock
) -> None:
    async def begin(it: Server) -> None:
        with pytest.raises(StartTimeoutError):
            await it.start_link(Server(sleeping), timeout=0.02)

    parent = Server(trap_exit=trap_exit)
    async with open_node() as node:
        ref = await node.start(parent)
        await ref.call(Server.run, begin)
        await trio.sleep(1)
        assert ref.is_alive
        assert parent.seen == []


async def test_a_child_in_its_init_ends_with_the_reason_of_its_starter(
    autojump_clock: Clock,
) -> None:
    child = Server(sleeping)

    async def begin(it: Server) -> object:
        return await it.start_link(child, name="child")

    async with open_node() as node:
        parent = await node.start(Server())
        await parent.cast(Server.run, begin)
        await trio.testing.wait_all_tasks_blocked()
        found = node.registry.whereis("child")
        assert found is not None
        parent.exit("crash")
        assert await found.wait_exit() == "crash"
        assert node.registry.whereis("child") is None


async def test_who_links_to_one_that_terminates_gets_its_last_reason_before_the_down(
    autojump_clock: Clock,
) -> None:
    watcher = Server(trap_exit=True)
    async with open_node() as node, trio.open_nursery() as nursery:
        target = await node.start(Server(terminate_seconds=1))
        ref = await node.start(watcher)

        async def watch(it: Server) -> int:
            it.link(target)
            return it.monitor(target)

        nursery.start_soon(target.stop, "bye")
        await trio.testing.wait_all_tasks_blocked()
        number = await ref.call(Server.run, watch)
        await target.wait_exit()
        await trio.testing.wait_all_tasks_blocked()
        assert isinstance(number, int)
        assert watcher.seen == [Exit(target, "bye"), Down(number, target, "bye")]


async def test_a_down_that_was_taken_back_is_not_received() -> None:
    async with open_node() as node:
        first, second = await node.start(Server()), await node.start(Server())

        async def watch(it: Server) -> object:
            number = it.monitor(first)
            it.monitor(second)
            for target in (first, second):
                target.exit("boom")
                await target.wait_exit()
            it.demonitor(number)
            found = await it.receive(lambda message: isinstance(message, Down))
            assert isinstance(found, Down)
            return found.ref

        ref = await node.start(Server())
        assert await ref.call(Server.run, watch) == second


async def test_the_first_signal_is_the_one_it_ends_with(autojump_clock: Clock) -> None:
    async with open_node() as node:
        peer: ActorRef[Server] = await node.start(Server())

        async def hold(it: Server) -> None:
            it.link(peer)
            with trio.CancelScope(shield=True):
                await trio.sleep(1)

        ref = await node.start(Server())
        await ref.cast(Server.run, hold)
        await trio.testing.wait_all_tasks_blocked()
        ref.exit("boom")
        peer.exit("kill")
        assert await ref.wait_exit() == "boom"


async def test_an_actor_cannot_wait_for_its_own_stop() -> None:
    async def stop(it: Server) -> None:
        with pytest.raises(CallingSelfError):
            await it.ref.stop()

    async with open_node() as node:
        ref = await node.start(Server())
        await ref.call(Server.run, stop)
        assert ref.is_alive


class Lingering(Actor):
    """Takes its time to go."""

    async def linger(self) -> None:
        try:
            await trio.sleep_forever()
        finally:
            with trio.CancelScope(shield=True):
                await trio.sleep(2)


async def test_the_name_of_an_actor_that_is_leaving_is_waited_for(
    autojump_clock: Clock,
) -> None:
    async with open_node() as node:
        old = await node.start(Lingering(), name="one")
        await old.cast(Lingering.linger)
        await trio.testing.wait_all_tasks_blocked()
        old.exit("kill")
        new = await node.start(Lingering(), name="one")
        assert not old.is_alive
        assert node.registry.whereis("one") == new
        with pytest.raises(AlreadyStartedError):
            await node.start(Lingering(), name="one")


async def test_the_name_of_an_actor_that_does_not_leave_stays_taken(
    autojump_clock: Clock,
) -> None:
    async with open_node() as node:
        old = await node.start(Lingering(), name="one")
        await old.cast(Lingering.linger)
        await trio.testing.wait_all_tasks_blocked()
        old.exit("kill")
        with pytest.raises(AlreadyStartedError):
            await node.start(Lingering(), name="one", timeout=1)
