"""An actor that does what a test tells it, and notes what it sees."""

from collections.abc import Awaitable, Callable

import trio
import trio.testing

from dspex.runtime import Actor, ActorRef, Deferred, Leave, Node, StartError

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
