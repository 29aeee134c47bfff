"""Transport: proxies, as the environment chooses them."""

import urllib.request
from collections.abc import AsyncGenerator

import httpcore
import pytest
import trio

from dspex.providers import ConnectionFailedError, OpenAI, Transport
from dspex.providers.origins import proxy_of
from dspex.testing import Answer, FakeProvider, open_fake_provider
from tests.integration.transport_client import ONCE


@pytest.fixture
async def server() -> AsyncGenerator[FakeProvider]:
    async with open_fake_provider() as server:
        yield server


async def test_a_proxy_of_the_environment_is_used(
    server: FakeProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", server.url.removesuffix("/v1"))
    monkeypatch.delenv("no_proxy", raising=False)
    async with OpenAI("m", api_key="k", base_url="http://models.invalid/v1") as lm:
        assert (await lm.complete("x")).text == "ok"
    assert server.requests[0].path == "http://models.invalid/v1/chat/completions"


async def test_a_reply_through_a_proxy_can_be_left_early(
    server: FakeProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", server.url.removesuffix("/v1"))
    monkeypatch.delenv("no_proxy", raising=False)
    server.plan([Answer("a long answer " * 10, pace=0.01)] * 3)
    async with Transport() as transport:
        lm = OpenAI(
            "m", api_key="k", base_url="http://models.invalid/v1", transport=transport
        )
        for _ in range(3):
            async with lm.stream("x") as stream:
                await anext(stream)
        with trio.fail_after(2):
            while server.open_connections:
                await trio.sleep(0.001)
        assert (await lm.complete("x")).text == "ok"
        assert transport.statistics().busy == 0


@pytest.mark.parametrize(
    ("variables", "host", "proxied"),
    [
        ({"http_proxy": "http://p:1"}, "models.invalid", True),
        ({"all_proxy": "p:1"}, "models.invalid", True),
        (
            {"http_proxy": "http://p:1", "no_proxy": "models.invalid"},
            "models.invalid",
            False,
        ),
        ({"http_proxy": "http://p:1", "no_proxy": ".invalid"}, "models.invalid", False),
        ({"http_proxy": "http://p:1", "no_proxy": "*"}, "models.invalid", False),
        (
            {"http_proxy": "http://p:1", "no_proxy": "models.invalid:8080"},
            "models.invalid:8080",
            False,
        ),
        (
            {"http_proxy": "http://p:1", "no_proxy": "other.invalid"},
            "models.invalid",
            True,
        ),
        ({"https_proxy": "http://p:1"}, "models.invalid", False),
    ],
)
def test_proxies_are_chosen_as_the_environment_says(
    variables: dict[str, str],
    host: str,
    proxied: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    origin = httpcore.URL(f"http://{host}/v1").origin
    assert (proxy_of(origin, urllib.request.getproxies()) is not None) is proxied


async def test_a_proxy_of_another_kind_is_told(
    server: FakeProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", "socks5://127.0.0.1:1")
    monkeypatch.delenv("no_proxy", raising=False)
    lm = OpenAI("m", api_key="k", base_url="http://models.invalid/v1", retries=ONCE)
    with pytest.raises(ConnectionFailedError, match="socks5:// proxy"):
        await lm.complete("x")
