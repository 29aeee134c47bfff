"""Publish to whoever has joined a key: `python -m examples.pubsub`."""

import trio

from dspex.runtime import Actor, Groups, open_node


class Subscriber(Actor):
    def __init__(self, groups: Groups, *topics: str) -> None:
        self.groups = groups
        self.topics = topics
        self.heard: list[object] = []

    async def init(self) -> None:
        for topic in self.topics:
            self.groups.join(topic, self.ref)  # left at death, by itself

    async def handle_info(self, message: object) -> None:
        self.heard.append(message)

    async def get(self) -> list[object]:
        return self.heard


async def main() -> None:
    groups = Groups()
    async with open_node() as node:
        anna = await node.start(Subscriber(groups, "news", "sport"), name="anna")
        ben = await node.start(Subscriber(groups, "news"), name="ben")
        print("news reached", await groups.publish("news", "rain"))
        print("sport reached", await groups.publish("sport", "2:1"))
        await ben.stop()
        print("news reached", await groups.publish("news", "sun"))
        print("anna heard", await anna.call(Subscriber.get))


if __name__ == "__main__":
    trio.run(main)
