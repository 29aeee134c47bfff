"""What a call leaves behind when it is over: none of what it was given and gave."""

import weakref
from functools import partial

import pytest
import trio
import trio.testing

from dspex.runtime import Actor, CallError, Deferred, Refuse, open_node, sys


class Thing:
    """Something large."""


class Keeper(Actor):
    async def give_back(self, thing: Thing) -> Thing:
        return thing

    async def give_later(self, thing: Thing) -> Deferred[Thing]:
        answer: Deferred[Thing] = self.deferred()
        answer.when_settled(partial(self._note, thing))
        self.spawn(self._give, answer, thing)
        return answer

    def _note(self, thing: Thing) -> None:
        self.is_noted = True

    async def _give(self, answer: Deferred[Thing], thing: Thing) -> None:
        await trio.lowlevel.checkpoint()
        answer.reply(thing)

    async def refuse(self, thing: Thing) -> None:
        raise Refuse(CallError("keeper", "no room"))

    async def hang(self, thing: Thing) -> None:
        await trio.sleep(10)


async def test_answered_calls_keep_neither_arguments_nor_answers() -> None:
    alive: weakref.WeakSet[Thing] = weakref.WeakSet()
    async with open_node() as node:
        ref = await node.start(Keeper())
        for method in (Keeper.give_back, Keeper.give_later):
            for _ in range(20):
                thing = Thing()
                alive.add(thing)
                assert await ref.call(method, thing, timeout=3_600) is thing
                del thing
        await trio.testing.wait_all_tasks_blocked()
        assert not alive


async def test_refused_calls_keep_no_arguments() -> None:
    alive: weakref.WeakSet[Thing] = weakref.WeakSet()
    async with open_node() as node:
        ref = await node.start(Keeper())
        alive.add(thing := Thing())
        with pytest.raises(CallError):
            await ref.call(Keeper.refuse, thing, timeout=3_600)
        del thing
        await trio.testing.wait_all_tasks_blocked()
        assert not alive


async def test_calls_that_were_given_up_in_the_mailbox_keep_no_arguments(
    autojump_clock: trio.testing.MockClock,
) -> None:
    alive: weakref.WeakSet[Thing] = weakref.WeakSet()
    async with open_node() as node, trio.open_nursery() as nursery:
        ref = await node.start(Keeper())

        async def keep_busy() -> None:
            await ref.call(Keeper.hang, Thing(), timeout=3_600)

        async def give_up() -> None:
            alive.add(thing := Thing())
            await ref.call(Keeper.give_back, thing, timeout=3_600)

        nursery.start_soon(keep_busy)
        await trio.testing.wait_all_tasks_blocked()
        with trio.move_on_after(1):
            await give_up()
        await trio.sleep(20)
        assert not alive


async def test_what_a_question_to_the_process_gave_is_not_kept() -> None:
    async with open_node() as node:
        ref = await node.start(Keeper())
        state = await sys.get_state(ref, timeout=3_600)
        state["thing"] = thing = Thing()
        alive = weakref.ref(thing)
        del state, thing
        assert alive() is None
