"""A client over a transport that a test holds, and many calls of it."""

import httpx
import trio

from dspex.providers import OpenAI, RetryPolicy
from dspex.testing import FakeProvider

ONCE = RetryPolicy(attempts=1)


def model(server: FakeProvider, transport: httpx.AsyncBaseTransport) -> OpenAI:
    return OpenAI(
        "m", api_key="k", base_url=server.url, retries=ONCE, transport=transport
    )


async def many(lm: OpenAI, count: int) -> None:
    async with trio.open_nursery() as nursery:
        for _ in range(count):
            nursery.start_soon(lm.complete, "x")
