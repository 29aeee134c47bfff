"""A counter that crashes, and is there again: `python -m examples.counter`."""

import structlog
import trio

from dspex.runtime import Actor, CalleeExitedError, Refuse, open_node
from dspex.supervisors import ChildSpec, Supervisor


class Counter(Actor):
    """The instance is the state; a restart makes a fresh one."""

    def __init__(self, value: int = 0) -> None:
        self.value = value

    async def add(self, n: int) -> int:
        self.value += n
        return self.value

    async def divide(self, by: int) -> int:
        if by < 0:
            raise Refuse(ValueError(f"cannot divide by {by}"))  # fails this caller only
        self.value //= by  # by 0: the actor crashes
        return self.value


async def main() -> None:
    structlog.configure(
        processors=[structlog.processors.KeyValueRenderer(key_order=["event"])]
    )
    async with open_node() as node:
        specs = [ChildSpec("counter", Counter, args=(10,), name="counter")]
        await node.start(Supervisor(specs), name="root")
        counter = node.named("counter", Counter)  # follows the name across restarts

        print("10 + 2 =", await counter.call(Counter.add, 2))
        try:
            await counter.call(Counter.divide, -1)
        except ValueError as error:
            print("refused:", error)
        print("still", await counter.call(Counter.add, 0))
        try:
            await counter.call(Counter.divide, 0)
        except CalleeExitedError as error:
            print("crashed:", error)
        await node.registry.wait_for("counter")
        print("restarted with", await counter.call(Counter.add, 0))


if __name__ == "__main__":
    trio.run(main)
