"""A tree, and what a crash does to it: `python -m examples.supervision_tree`.

A cache and a pool of workers hang together: when the cache dies, the workers that
were started after it are restarted too (rest_for_one), last started first to stop.
"""

import structlog
import trio

from dspex.runtime import Actor, ActorRef, CallError, InitAnswer, open_node
from dspex.supervisors import ChildSpec, Supervise, Supervisor, supervision_tree


class Cache(Actor):
    async def init(self) -> None:
        self.entries: dict[str, str] = {}

    async def put(self, key: str, value: str) -> None:
        self.entries[key] = value

    async def corrupt(self) -> None:
        raise ValueError("checksum mismatch")


class Worker(Actor):
    trap_exit = True  # so that `terminate` runs when the supervisor stops it

    async def work(self, item: str) -> str:
        cache: ActorRef[Cache] = await self.node.registry.wait_for("cache")
        result = item.upper()
        await cache.call(Cache.put, item, result)
        return result

    async def terminate(self, reason: object) -> None:
        print(f"{self.name} ends: {reason}")


class Pool(Supervisor):
    """The class form: `init` answers the children."""

    def __init__(self, size: int) -> None:
        self.size = size

    async def init(self) -> InitAnswer:
        workers = [
            ChildSpec(f"worker-{n}", Worker, name=f"worker-{n}")
            for n in range(self.size)
        ]
        return Supervise(workers, strategy="one_for_one", intensity=3, period=5.0)


async def main() -> None:
    structlog.configure(
        processors=[structlog.processors.KeyValueRenderer(key_order=["event"])]
    )
    async with open_node() as node:
        children = [
            ChildSpec("cache", Cache, name="cache"),
            ChildSpec("pool", Pool, (2,)),
        ]
        await node.start(Supervisor(children, strategy="rest_for_one"), name="root")
        print(supervision_tree(node))

        worker: ActorRef[Worker] = await node.registry.wait_for("worker-1")
        print("work:", await worker.call(Worker.work, "hello"))
        cache: ActorRef[Cache] = await node.registry.wait_for("cache")
        try:
            await cache.call(Cache.corrupt)
        except CallError as error:
            print("crash:", error)
        await worker.wait_exit()
        worker = await node.registry.wait_for("worker-1")
        print("work again:", await worker.call(Worker.work, "world"))
        print(supervision_tree(node))
        print("leaving: last started, first stopped")


if __name__ == "__main__":
    trio.run(main)
