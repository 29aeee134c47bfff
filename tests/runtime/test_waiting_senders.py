"""Senders that wait for room and give up: they cost little, and leave nothing."""

import pytest
import trio
import trio.testing

from dspex.runtime import Actor, CallTimeoutError, open_node

Clock = trio.testing.MockClock


class Busy(Actor):
    capacity = 1

    def __init__(self) -> None:
        self.may_go = trio.Event()
        self.seen: list[object] = []

    async def handle_info(self, message: object) -> None:
        self.seen.append(message)
        await self.may_go.wait()

    async def note(self, number: int) -> int:
        self.seen.append(number)
        return number


class Compared:
    """A message that knows how often it was compared."""

    times = 0

    def __eq__(self, other: object) -> bool:
        Compared.times += 1
        return self is other

    __hash__ = None  # type: ignore[assignment]


async def test_a_sender_that_gives_up_is_not_looked_for_among_the_others() -> None:
    async with open_node() as node:
        ref = await node.start(Busy())
        async with trio.open_nursery() as nursery:
            for _ in range(100):
                nursery.start_soon(ref.send, Compared())
            await trio.testing.wait_all_tasks_blocked()
            assert ref.mailbox.waiting_senders == 98
            nursery.cancel_scope.cancel()
        assert ref.mailbox.waiting_senders == 0
        assert Compared.times == 0
        ref.exit("kill")


async def test_calls_that_time_out_before_there_is_room_are_not_kept(
    autojump_clock: Clock,
) -> None:
    async def give_up() -> None:
        with pytest.raises(CallTimeoutError):
            await ref.call(Busy.note, 0, timeout=1)

    async with open_node() as node:
        actor = Busy()
        ref = await node.start(actor)
        await ref.send("busy")
        await ref.send("waits inside")
        async with trio.open_nursery() as nursery:
            for _ in range(100):
                nursery.start_soon(give_up)
        assert ref.mailbox.waiting_senders == 0
        answers: list[int] = []

        async def call(number: int) -> None:
            answers.append(await ref.call(Busy.note, number, timeout=60))

        async with trio.open_nursery() as nursery:
            for number in range(3):
                nursery.start_soon(call, number)
            await trio.testing.wait_all_tasks_blocked()
            assert ref.mailbox.waiting_senders == 3
            actor.may_go.set()
        assert sorted(answers) == [0, 1, 2]
        assert actor.seen[:2] == ["busy", "waits inside"]
