"""Answer from the second model when the first is down, and leave the first alone."""

import trio

from dspex.providers import Breaker, Fallback, OpenAI, RetryPolicy
from dspex.testing import Answer, Fail, open_fake_provider


async def main() -> None:
    # Two servers that stand for two providers; give your own base URLs and keys.
    async with (
        open_fake_provider(lambda _: Fail(503, "down for maintenance")) as first,
        open_fake_provider(lambda _: Answer("Paris")) as second,
        OpenAI(
            "large",
            api_key="",
            base_url=first.url,
            retries=RetryPolicy(attempts=2, first_wait=0.01),
        ) as large,
        OpenAI("small", api_key="", base_url=second.url) as small,
    ):
        lm = Fallback([Breaker(large, failures=2, open_seconds=30), small])
        for _ in range(5):
            response = await lm.complete("What is the capital of France?", timeout=10)
            print(f"{response.text}, said {response.model}")
        # Two calls of two attempts each; then the breaker was open.
        print(f"requests to the first: {len(first.requests)}")
        print(f"requests to the second: {len(second.requests)}")


if __name__ == "__main__":
    trio.run(main)
