"""A client of the fake provider, with a key that must be shown nowhere."""

from dspex.providers import OpenAI, RetryPolicy
from dspex.testing import FakeProvider

KEY = "sk-test-0123456789"
QUICK = RetryPolicy(attempts=3, first_wait=0.01, longest_wait=0.02)


def client(server: FakeProvider, *, timeout: float = 5.0) -> OpenAI:
    return OpenAI(
        "gpt-4o-mini",
        api_key=KEY,
        base_url=server.url,
        retries=QUICK,
        timeout=timeout,
    )
