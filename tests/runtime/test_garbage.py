"""What a message leaves behind: nothing that only the garbage collector can free.

A full collection stops the whole node. One each few ten thousand calls made the slowest
hundredth of a thousand callers wait five times as long as the rest.
"""

import gc
from collections.abc import Awaitable, Callable, Generator

import pytest
import trio

from dspex.runtime import Actor, ActorRef, Deferred, Refuse, open_node


class Server(Actor):
    async def echo(self, value: int) -> int:
        return value

    async def wait(self, value: int) -> int:
        await trio.lowlevel.checkpoint()
        return value

    async def refuse(self, value: int) -> int:
        raise Refuse(ValueError(value))

    async def later(self, value: int) -> Deferred[int]:
        answer: Deferred[int] = self.deferred()
        self.spawn(self._reply, answer, value)
        return answer

    async def _reply(self, answer: Deferred[int], value: int) -> None:
        await trio.lowlevel.checkpoint()
        answer.reply(value)


async def call(ref: ActorRef[Server]) -> None:
    await ref.call(Server.echo, 1)


async def slow_call(ref: ActorRef[Server]) -> None:
    await ref.call(Server.wait, 1)


async def deferred_call(ref: ActorRef[Server]) -> None:
    await ref.call(Server.later, 1)


async def refused_call(ref: ActorRef[Server]) -> None:
    with pytest.raises(ValueError, match="1"):
        await ref.call(Server.refuse, 1)


async def cast(ref: ActorRef[Server]) -> None:
    await ref.cast(Server.echo, 1)


async def message(ref: ActorRef[Server]) -> None:
    await ref.send("hello")


@pytest.fixture
def _no_collections() -> Generator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.mark.usefixtures("_no_collections")
@pytest.mark.parametrize(
    "send", [call, slow_call, deferred_call, refused_call, cast, message]
)
async def test_a_message_leaves_no_cycle(
    send: Callable[[ActorRef[Server]], Awaitable[None]],
) -> None:
    async with open_node() as node:
        ref = await node.start(Server())
        # The deadlines of the last few hundred calls are let go of together.
        for _ in range(600):
            await send(ref)
        await ref.call(Server.echo, 1)
        gc.collect()
        for _ in range(600):
            await send(ref)
        await ref.call(Server.echo, 1)
        assert gc.collect() < 100
