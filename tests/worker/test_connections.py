"""The worker's connections: a small ASGI app behind them, over real sockets."""

import socket
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import cast

import pytest
import trio
import trio.testing

pytest.importorskip("hypercorn")

from hypercorn.config import Config
from starlette.types import Receive, Scope, Send

from dspex.worker.connections import serve_clients
from tests.integration.dspex_command import eventually

SOON = 5.0


@dataclass
class Server:
    """Answers with the path: `/late` when told, `/huge` with much, `/broken` not."""

    port: int = 0
    closing: trio.Event = field(default_factory=trio.Event)
    may_go_on: trio.Event = field(default_factory=trio.Event)
    arrived: trio.Event = field(default_factory=trio.Event)
    ended: trio.Event = field(default_factory=trio.Event)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1003})
            return
        body = scope["path"].encode()
        if body == b"/huge":
            body *= 2_000_000
        length = (b"content-length", b"%d" % len(body))
        self.arrived.set()
        if body == b"/late":
            await self.may_go_on.wait()
        await send({"type": "http.response.start", "status": 200, "headers": [length]})
        if body == b"/broken":
            raise RuntimeError("no body")
        await send({"type": "http.response.body", "body": body})

    async def connect(self) -> trio.SocketStream:
        return await trio.open_tcp_stream("127.0.0.1", self.port)


def asked(*paths: str) -> bytes:
    return b"".join(b"GET %s HTTP/1.1\r\nhost: x\r\n\r\n" % it.encode() for it in paths)


async def read(client: trio.SocketStream, until: bytes) -> bytes:
    """Give what comes, to the piece that has `until`; all of it if none has."""
    found = b""
    with trio.fail_after(SOON):
        while until not in found and (piece := await client.receive_some()):
            found += piece
    return found


@asynccontextmanager
async def open_server(
    *, graceful_seconds: float = SOON, idle_seconds: float = SOON
) -> AsyncGenerator[Server]:
    config = Config()
    config.keep_alive_timeout = cast("int", idle_seconds)
    config.accesslog = config.errorlog = None
    config.graceful_timeout = graceful_seconds
    bound = socket.create_server(("127.0.0.1", 0))
    bound.setblocking(False)
    server = Server(bound.getsockname()[1])

    async def serve(task_status: trio.TaskStatus[None]) -> None:
        run = partial(serve_clients, until=server.closing.wait)
        await run(server, config, bound, task_status=task_status)
        server.ended.set()

    async with trio.open_nursery() as nursery:
        await nursery.start(serve)
        yield server
        server.closing.set()


UPGRADE = (
    b"GET /a HTTP/1.1\r\nhost: x\r\nconnection: upgrade%s\r\nupgrade: %s\r\n%s\r\n"
)
WEBSOCKET = UPGRADE % (
    b"",
    b"websocket",
    b"sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\nsec-websocket-version: 13\r\n",
)
HTTP_2 = UPGRADE % (b", http2-settings", b"h2c", b"http2-settings: AAAA\r\n")


@pytest.mark.parametrize("request_", [WEBSOCKET + asked("/b"), HTTP_2])
async def test_an_error_in_a_connection_ends_no_other(request_: bytes) -> None:
    async with open_server() as server, await server.connect() as asking:
        await asking.send_all(asked("/late"))
        await server.arrived.wait()
        for _ in range(20):
            async with await server.connect() as client:
                await client.send_all(request_)
                await client.send_eof()
                await read(client, b"everything")
        assert not server.ended.is_set()
        server.may_go_on.set()
        assert (await read(asking, b"/late")).endswith(b"/late")


async def test_the_end_waits_for_answers_and_for_no_silent_client() -> None:
    async with (
        open_server() as server,
        await server.connect() as silent,
        await server.connect() as asking,
    ):
        await silent.send_all(asked("/a"))
        await read(silent, b"/a")
        server.arrived = trio.Event()
        await asking.send_all(asked("/late"))
        await server.arrived.wait()
        server.closing.set()
        assert await read(silent, b"more") == b""
        server.may_go_on.set()
        assert (await read(asking, b"more")).endswith(b"/late")


@pytest.mark.parametrize("path", ["/late", "/huge"])
async def test_the_end_waits_no_longer_than_it_may(path: str) -> None:
    async with (
        open_server(graceful_seconds=0.1) as server,
        await server.connect() as client,
    ):
        await client.send_all(asked(path))
        await server.arrived.wait()
        server.closing.set()
        with trio.fail_after(SOON):
            await server.ended.wait()


@pytest.mark.parametrize("said", [b"", b"GET /a HTT", asked("/a")])
async def test_nothing_is_kept_of_a_client_that_has_left(said: bytes) -> None:
    async with open_server() as server:
        await trio.testing.wait_all_tasks_blocked()
        before = living()
        clients = [await server.connect() for _ in range(20)]
        for client in clients:
            await client.send_all(said)
        assert await eventually(lambda: living() > before, seconds=SOON)
        for client in clients:
            await client.aclose()
        assert await eventually(lambda: living() <= before, seconds=2)


@pytest.mark.parametrize("said", [b"", b"GET /a HTT", asked("/a")])
async def test_a_client_that_is_silent_for_long_is_left(said: bytes) -> None:
    async with open_server(idle_seconds=0.01) as server:
        await trio.testing.wait_all_tasks_blocked()
        before = living()
        async with await server.connect() as client:
            await client.send_all(said)
            answer = await read(client, b"more")
            assert answer.endswith(b"/a") is said.endswith(b"\r\n\r\n")
        assert await eventually(lambda: living() <= before, seconds=2)


async def test_a_client_that_waits_for_its_answer_is_not_silent() -> None:
    async with (
        open_server(idle_seconds=0.01) as server,
        await server.connect() as asking,
        await server.connect() as silent,
    ):
        await asking.send_all(asked("/late"))
        await server.arrived.wait()
        # As long as it takes to notice the other, and once more.
        assert await read(silent, b"more") == b""
        async with await server.connect() as another:
            assert await read(another, b"more") == b""
        server.may_go_on.set()
        assert (await read(asking, b"more")).endswith(b"/late")


async def test_requests_of_one_piece_are_answered_in_turn() -> None:
    async with open_server() as server, await server.connect() as client:
        await client.send_all(asked("/a", "/huge", "/b"))
        found = await read(client, b"\r\n\r\n/b")
        assert found.count(b"HTTP/1.1 200") == 3
        assert len(found) > 10_000_000


async def test_an_answer_without_a_body_is_answered_at_once() -> None:
    async with open_server() as server, await server.connect() as client:
        for _ in range(2):
            await client.send_all(asked("/a").replace(b"GET", b"HEAD"))
            found = await read(client, b"\r\n\r\n")
            assert b"content-length: 2\r\n" in found
            assert found.endswith(b"\r\n\r\n")
        await client.send_all(asked("/b"))
        assert (await read(client, b"/b")).endswith(b"/b")


async def test_of_an_answer_that_breaks_no_half_is_sent() -> None:
    async with open_server() as server, await server.connect() as client:
        await client.send_all(asked("/broken"))
        assert await read(client, b"everything") == b""


def living() -> int:
    return trio.lowlevel.current_statistics().tasks_living
