"""sys: suspend, resume, state, trace, statistics."""

import pytest
import trio
import trio.testing

from dspex.runtime import (
    Actor,
    ActorRef,
    CallTimeoutError,
    NoProcessError,
    open_node,
    sys,
)
from dspex.runtime.debug import TracedMessage


class Box(Actor):
    trap_exit = True

    def __init__(self) -> None:
        self.items: list[int] = []
        self._hidden = 1
        self.ended = False

    async def put(self, item: int) -> int:
        self.items.append(item)
        return len(self.items)

    async def handle_info(self, message: object) -> None:
        self.items.append(-1)

    async def suspend_itself(self) -> None:
        await sys.suspend(self.ref)

    async def terminate(self, reason: object) -> None:
        self.ended = True


async def test_a_suspended_actor_keeps_its_messages_for_later(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with open_node() as node:
        ref = await node.start(Box())
        await sys.suspend(ref)
        assert ref.state == "suspended"
        await ref.cast(Box.put, 1)
        with pytest.raises(CallTimeoutError):
            await ref.call(Box.put, 2, timeout=1)
        assert (await sys.get_state(ref))["items"] == []
        await sys.resume(ref)
        assert await ref.call(Box.put, 3) == 2  # the call that gave up did not run
        assert ref.state == "running"


@pytest.mark.parametrize("how", ["stop", "kill", "node"])
async def test_a_suspended_actor_can_be_ended(how: str) -> None:
    box = Box()
    async with open_node() as node:
        ref = await node.start(box)
        await sys.suspend(ref)
        await ref.cast(Box.put, 1)
        if how == "stop":
            await ref.stop()
        elif how == "kill":
            ref.exit("kill")
            await ref.wait_exit()
    assert not ref.is_alive
    assert box.items == []
    assert box.ended is (how != "kill")


async def test_get_state_is_a_copy_of_what_is_public() -> None:
    async with open_node() as node:
        ref = await node.start(Box())
        await ref.call(Box.put, 1)
        state = await sys.get_state(ref)
        assert state == {"items": [1], "ended": False}
        state["items"] = []
        assert await ref.call(Box.put, 2) == 2


async def test_replace_state_changes_all_or_nothing() -> None:
    async with open_node() as node:
        ref = await node.start(Box())
        changed = await sys.replace_state(ref, lambda it: {**it, "items": [1, 2, 3]})
        assert changed["items"] == [1, 2, 3]
        assert await ref.call(Box.put, 4) == 4

        def bad(_: dict[str, object]) -> dict[str, object]:
            raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            await sys.replace_state(ref, bad)
        assert await ref.call(Box.put, 5) == 5


async def test_trace_shows_each_message_before_it_is_handled() -> None:
    seen: list[TracedMessage] = []
    async with open_node() as node:
        ref = await node.start(Box(), name="box")
        await ref.call(Box.put, 1)
        await sys.trace(ref, seen.append)
        await ref.call(Box.put, 2)
        await ref.cast(Box.put, 3)
        await ref.send("info")
        await ref.call(Box.put, 4)
        await sys.trace(ref, None)
        await ref.call(Box.put, 5)
    assert seen == [
        TracedMessage("box", "put", (2,)),
        TracedMessage("box", "put", (3,)),
        TracedMessage("box", None, "info"),
        TracedMessage("box", "put", (4,)),
    ]


async def test_statistics_count_from_the_first_question(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with open_node() as node:
        ref = await node.start(Box())
        await ref.call(Box.put, 1)
        await sys.statistics(ref)
        await ref.call(Box.put, 2)
        await ref.send("info")
        await trio.sleep(2)
        figures = await sys.statistics(ref)
        assert (figures.calls_and_casts, figures.infos) == (1, 1)
        assert figures.seconds == pytest.approx(2)


async def test_a_question_to_a_dead_actor_fails_at_once() -> None:
    async with open_node() as node:
        ref: ActorRef[Box] = await node.start(Box())
        await ref.stop()
        with pytest.raises(NoProcessError):
            await sys.suspend(ref)
