"""The worker's connections: a small ASGI app behind them, over real sockets."""

import socket
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial

import pytest
import trio

pytest.importorskip("starlette")

from starlette.types import Receive, Scope, Send

from dspex.worker import connections
from dspex.worker.connections import serve_clients

SOON = 5.0


@dataclass
class Server:
    """Answers `/stream` with a head and, when told, a body; else with the path."""

    port: int = 0
    closing: trio.Event = field(default_factory=trio.Event)
    may_go_on: trio.Event = field(default_factory=trio.Event)
    arrived: trio.Event = field(default_factory=trio.Event)
    left: trio.Event = field(default_factory=trio.Event)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        body = scope["path"].encode()
        if body == b"/echo":
            body = b""
            more = True
            while more:
                asked = await receive()
                if asked["type"] == "http.disconnect":
                    self.left.set()
                    return
                body += asked["body"]
                more = asked.get("more_body", False)
        if body == b"/until-left":
            assert (await receive())["type"] == "http.request"
            self.arrived.set()
            assert (await receive())["type"] == "http.disconnect"
            self.left.set()
            return
        if body == b"/nothing":
            return
        if body == b"/huge":
            body *= 2_000_000
        length = (b"content-length", b"%d" % len(body))
        head = {"type": "http.response.start", "status": 200, "headers": [length]}
        part = {"type": "http.response.body", "body": b"", "more_body": True}
        self.arrived.set()
        await send(head)
        if body == b"/stream":
            await send(part)
            await self.may_go_on.wait()
        if body == b"/late":
            await self.may_go_on.wait()
        await send({"type": "http.response.body", "body": body})
        self.left.set()

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
    *, silent_seconds: float = 60, graceful_seconds: float = SOON
) -> AsyncGenerator[Server]:
    bound = socket.create_server(("127.0.0.1", 0))
    bound.setblocking(False)
    server = Server(bound.getsockname()[1])
    async with trio.open_nursery() as nursery:
        serve = partial(
            serve_clients,
            until=server.closing.wait,
            silent_seconds=silent_seconds,
            graceful_seconds=graceful_seconds,
        )
        await nursery.start(serve, server, bound)
        yield server
        server.closing.set()


async def test_a_whole_answer_is_one_piece() -> None:
    async with open_server() as server:
        for _ in range(20):
            async with await server.connect() as client:
                await client.send_all(asked("/a"))
                piece = await client.receive_some()
                assert piece.startswith(b"HTTP/1.1 200")
                assert piece.endswith(b"/a")


async def test_the_head_of_an_answer_is_there_before_its_body() -> None:
    async with open_server() as server, await server.connect() as client:
        await client.send_all(asked("/stream"))
        assert (await read(client, b"\r\n\r\n")).endswith(b"\r\n\r\n")
        server.may_go_on.set()
        assert await read(client, b"/stream") == b"/stream"


async def test_requests_sent_at_once_are_answered_in_order() -> None:
    paths = [f"/{number:03}" for number in range(50)]
    async with open_server() as server, await server.connect() as client:
        await client.send_all(asked(*paths))
        answers = await read(client, b"/049")
    places = [answers.index(path.encode()) for path in paths]
    assert places == sorted(places)


@pytest.mark.parametrize("begun", [b"", b"GET /a HTTP/1.1\r\nho"])
async def test_a_silent_client_is_left(begun: bytes) -> None:
    async with (
        open_server(silent_seconds=0.1) as server,
        await server.connect() as client,
    ):
        await client.send_all(asked("/a") + begun)
        assert (await read(client, b"more")).endswith(b"/a")


async def test_a_client_that_waits_for_its_answer_is_not_silent() -> None:
    async with (
        open_server(silent_seconds=0.05) as server,
        await server.connect() as client,
    ):
        await client.send_all(asked("/late"))
        await trio.sleep(0.3)
        server.may_go_on.set()
        assert (await read(client, b"/late")).endswith(b"/late")


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


async def test_the_end_waits_no_longer_than_it_may() -> None:
    async with (
        open_server(graceful_seconds=0.1) as server,
        await server.connect() as client,
    ):
        await client.send_all(asked("/late"))
        await server.arrived.wait()
        server.closing.set()
        assert await read(client, b"more") == b""


async def test_a_client_that_does_not_read_is_left(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(connections, "_CHUNK_SECONDS", 0.1)
    async with open_server() as server, await server.connect() as client:
        await client.send_all(asked("/huge"))
        await server.arrived.wait()
        with trio.fail_after(SOON):
            await server.left.wait()


async def test_a_client_that_leaves_while_it_is_answered_harms_no_other() -> None:
    async with open_server() as server:
        for _ in range(20):
            leaving = await server.connect()
            await leaving.send_all(asked("/a", "/b", "/c"))
            await leaving.aclose()
        async with await server.connect() as client:
            await client.send_all(asked("/d"))
            assert (await read(client, b"/d")).endswith(b"/d")


CHUNKED = b"transfer-encoding: chunked\r\n\r\n2\r\nab\r\n1\r\nc\r\n0\r\n\r\n"


@pytest.mark.parametrize("rest", [b"content-length: 3\r\n\r\nabc", CHUNKED])
@pytest.mark.parametrize("pieces", [1, 10, 1_000])
async def test_a_body_may_come_in_pieces(rest: bytes, pieces: int) -> None:
    request = b"POST /echo HTTP/1.1\r\nhost: x\r\n" + rest
    size = max(1, len(request) // pieces)
    async with open_server() as server, await server.connect() as client:
        for start in range(0, len(request), size):
            await client.send_all(request[start : start + size])
            await trio.lowlevel.checkpoint()
        assert (await read(client, b"abc")).endswith(b"\r\n\r\nabc")


async def test_a_client_that_asks_before_it_sends_a_body_is_told_to_go_on() -> None:
    head = b"POST /echo HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\n"
    async with open_server() as server, await server.connect() as client:
        await client.send_all(head + b"content-length: 3\r\n\r\n")
        assert (await read(client, b"\r\n\r\n")).startswith(b"HTTP/1.1 100")
        await client.send_all(b"abc")
        assert (await read(client, b"abc")).endswith(b"abc")


async def test_what_is_no_http_is_refused() -> None:
    async with open_server() as server, await server.connect() as client:
        await client.send_all(b"what is this\r\n\r\n")
        assert (await read(client, b"more")).startswith(b"HTTP/1.1 400")


@pytest.mark.parametrize("body", [b"zz\r\n", b"1\r\nab\r\n"])
async def test_a_body_that_is_no_http_is_refused(body: bytes) -> None:
    head = b"POST /echo HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n"
    async with open_server() as server, await server.connect() as client:
        await client.send_all(head + body)
        assert (await read(client, b"more")).startswith(b"HTTP/1.1 400")
        assert server.left.is_set()


async def test_an_answer_to_head_has_no_body() -> None:
    request = asked("/a").replace(b"GET", b"HEAD")
    async with open_server() as server, await server.connect() as client:
        await client.send_all(request + asked("/b"))
        answers = await read(client, b"/b")
    assert answers.count(b"HTTP/1.1 200") == 2
    assert b"/a" not in answers


async def test_an_app_that_gives_no_answer_is_a_500() -> None:
    async with open_server() as server, await server.connect() as client:
        await client.send_all(asked("/nothing"))
        assert (await read(client, b"more")).startswith(b"HTTP/1.1 500")


@pytest.mark.parametrize("size", [1_000, 1_000_000])
async def test_a_body_that_nobody_reads_does_not_take_the_answer(size: int) -> None:
    head = b"POST /a HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % size
    async with open_server() as server:
        for _ in range(10):
            async with await server.connect() as client:
                await client.send_all(head + b"x" * size)
                assert (await read(client, b"/a")).endswith(b"/a")


async def test_a_client_that_only_ends_its_side_is_answered() -> None:
    async with open_server() as server, await server.connect() as client:
        await client.send_all(asked("/a"))
        await client.send_eof()
        assert (await read(client, b"more")).endswith(b"/a")


async def test_an_app_that_waits_hears_that_its_client_has_left() -> None:
    async with open_server() as server:
        async with await server.connect() as client:
            await client.send_all(asked("/until-left"))
            with trio.fail_after(SOON):
                await server.arrived.wait()
        with trio.fail_after(SOON):
            await server.left.wait()
