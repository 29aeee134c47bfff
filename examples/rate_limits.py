"""Many callers, one API key: kept to its limits, and paused together when told to."""

import itertools

import trio

from dspex.providers import Limits, OpenAI, RateLimiter, SharedLimiter
from dspex.runtime import open_node
from dspex.supervisors import ChildSpec, Supervisor
from dspex.testing import Action, Answer, Fail, ProviderRequest, open_fake_provider

CALLS = 20


async def main() -> None:
    times: list[float] = []

    def provider(request: ProviderRequest) -> Action:
        """Refuse the tenth request, and ask for a second of silence."""
        times.append(trio.current_time())
        if len(times) == 10:
            return Fail(429, "slow down", headers={"retry-after": "1"})
        return Answer("ok")

    async with open_fake_provider(provider) as server, open_node() as node:
        limits = Limits(requests_per_minute=600, concurrency=4)  # ten a second
        limiter = ChildSpec("limiter", RateLimiter, args=(limits,), name="my-key")
        await node.start(Supervisor([limiter]), name="root")
        shared = SharedLimiter(node.registry, "my-key")
        async with (
            OpenAI("m", api_key="", base_url=server.url, limiter=shared) as lm,
            trio.open_nursery() as nursery,
        ):
            for _ in range(CALLS):
                nursery.start_soon(lm.complete, "Hello")

    print(f"{CALLS} calls, {len(times)} requests in {times[-1] - times[0]:.1f} s")
    silence = max(after - before for before, after in itertools.pairwise(times))
    print(f"longest silence: {silence:.1f} s")


if __name__ == "__main__":
    trio.run(main)
