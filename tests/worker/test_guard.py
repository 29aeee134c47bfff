"""How often a client may ask, and for what."""

import socket
from functools import partial

import pytest
import trio
import trio.testing

pytest.importorskip("starlette")
pytest.importorskip("h11")

from hypercorn.config import Config
from starlette.types import Receive, Scope, Send

from dspex.worker.connections import serve_clients
from dspex.worker.guard import Guard, RateLimiter, Sessions
from dspex.worker.settings import WorkerSettings
from tests.integration.http_client import ask


@pytest.mark.parametrize(
    ("per_minute", "burst"), [(1, 10), (60, 10), (600, 100), (60_000, 10_000)]
)
async def test_ten_seconds_worth_may_come_at_once(
    per_minute: float, burst: int, autojump_clock: trio.testing.MockClock
) -> None:
    limiter = RateLimiter(per_minute)
    assert not any(limiter.take("a") for _ in range(burst))
    wait = limiter.take("a")
    assert wait == pytest.approx(60 / per_minute)
    assert limiter.take("b") == 0
    await trio.sleep(wait * 1.001)
    assert limiter.take("a") == 0
    assert limiter.take("a") > 0


async def test_who_asks_evenly_gets_as_many_a_minute_as_the_setting_says(
    autojump_clock: trio.testing.MockClock,
) -> None:
    limiter = RateLimiter(60)
    let_in = 0
    for _ in range(600):  # ten minutes, two each second
        for _ in range(2):
            let_in += not limiter.take("a")
        await trio.sleep(1)
    assert 600 <= let_in <= 611


async def tell_path(scope: Scope, receive: Receive, send: Send) -> None:
    body = f"{scope['path']} {scope['raw_path']} {scope['query_string']}".encode()
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": body})


@pytest.mark.parametrize(
    ("target", "status", "told"),
    [
        ("http://127.0.0.1:8000/v1/r%75ns?limit=1", 200, "/v1/runs b'/v1/r%75ns' b'l"),
        ("HTTP://localhost", 200, "/ b'/' b''"),
        ("http://evil.example/v1/runs", 421, "not 'evil.example'"),
        ("http://me@127.0.0.1/v1/runs", 421, "not 'me@127.0.0.1'"),
        ("http:///v1/runs", 200, "http:///v1/runs"),
    ],
)
async def test_a_target_that_is_a_whole_url_is_taken_apart(
    target: str, status: int, told: str
) -> None:
    guard = Guard(tell_path, settings=WorkerSettings(), sessions=Sessions(None))
    bound = socket.create_server(("127.0.0.1", 0))
    bound.setblocking(False)
    port: int = bound.getsockname()[1]
    async with trio.open_nursery() as nursery:
        serve = partial(serve_clients, until=trio.sleep_forever)
        await nursery.start(serve, guard, Config(), bound)
        reply = await ask(port, "GET", target)
        nursery.cancel_scope.cancel()
    assert (reply.status, told in reply.text) == (status, True), reply.text
