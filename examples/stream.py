"""See an answer while it is written, from the embedded model: no key, no service."""

import trio

from dspex.providers import Embedded, EmbeddedServer, Message, Request, TextDelta
from dspex.runtime import open_node
from dspex.supervisors import ChildSpec, Supervisor

REQUEST = Request(
    (Message.user("Write one sentence about the sea."),), max_tokens=40, temperature=0.0
)


async def main() -> None:
    async with open_node() as node:
        server = ChildSpec("model", EmbeddedServer, name="embedded", shutdown=5.0)
        await node.start(Supervisor([server]), name="root")
        async with Embedded(node.registry) as lm, lm.stream(REQUEST) as stream:
            async for delta in stream:
                if isinstance(delta, TextDelta):
                    print(delta.text, end="", flush=True)
        usage = stream.response.usage
        print(f"\n({usage.input_tokens} tokens in, {usage.output_tokens} out)")


if __name__ == "__main__":
    trio.run(main)
