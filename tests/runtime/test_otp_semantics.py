"""What a process does, each point as it was observed on Erlang/OTP 25."""

import traceback
from collections.abc import Awaitable, Callable

import pytest
import trio
import trio.testing

from dspex.runtime import (
    IGNORE,
    TIMEOUT,
    Actor,
    ActorRef,
    AlreadyNamedError,
    AlreadyStartedError,
    BadReturnValueError,
    CalleeExitedError,
    CallingSelfError,
    CallTimeoutError,
    Continue,
    Deferred,
    Down,
    Exit,
    InitAnswer,
    Leave,
    NameTakenError,
    Node,
    NoProcessError,
    StartError,
    StartIgnoredError,
    StartTimeoutError,
    open_node,
    sys,
)

Clock = trio.testing.MockClock
settled = trio.testing.wait_all_tasks_blocked


class Server(Actor):
    """A process that does what it is told and notes what it sees."""

    def __init__(self, *, trap_exit: bool = False) -> None:
        self.trap_exit = trap_exit
        self.seen: list[object] = []
        self.ended: list[object] = []

    async def handle_info(self, message: object) -> None:
        self.seen.append(message)

    async def terminate(self, reason: object) -> None:
        self.ended.append(reason)

    async def run(self, work: Callable[["Server"], Awaitable[object]]) -> object:
        return await work(self)

    async def echo(self, value: object) -> object:
        return value

    async def note(self, value: object) -> None:
        self.seen.append(value)

    async def sleep(self, seconds: float) -> str:
        await trio.sleep(seconds)
        return "slept"

    async def later(self, seconds: float) -> Deferred[str]:
        answer: Deferred[str] = self.deferred()

        async def work() -> None:
            await trio.sleep(seconds)
            answer.reply("deferred")

        self.spawn(work)
        return answer

    async def crash(self) -> None:
        raise ZeroDivisionError("bang")

    async def leave(self, reason: object) -> None:
        raise Leave(reason)

    async def stop_with(self, reason: object, value: object) -> object:
        self.stop(reason)
        return value

    async def try_to_start(self, child: "Server") -> object:
        try:
            return await self.start_link(child)
        except StartError as error:
            return error

    async def call_itself(self) -> None:
        ref: ActorRef[Server] = self.ref
        await ref.call(Server.echo, 1)


async def start(
    node: Node, *, trap_exit: bool = False
) -> tuple[Server, ActorRef[Server]]:
    server = Server(trap_exit=trap_exit)
    return server, await node.start(server)


async def dead(node: Node) -> ActorRef[Server]:
    _, ref = await start(node)
    ref.exit("kill")
    await ref.wait_exit()
    return ref


# Calls.


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


# Casts and plain messages.


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


# Starts.


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


# Ends.


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


# Monitors.


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


# Links.


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


# Order.


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
