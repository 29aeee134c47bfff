"""Transport: connections that are shared, bounded, left early and closed."""

import gzip
from collections.abc import AsyncGenerator

import httpx
import pytest
import trio

from dspex.providers import ConnectionFailedError, OpenAI, Transport
from dspex.testing import Answer, FakeProvider, Hang, Raw, open_fake_provider
from tests.integration.transport_client import ONCE, many, model


@pytest.fixture
async def server() -> AsyncGenerator[FakeProvider]:
    async with open_fake_provider() as server:
        yield server


async def test_calls_one_after_another_share_a_connection(server: FakeProvider) -> None:
    async with Transport() as transport:
        lm = model(server, transport)
        for _ in range(10):
            await lm.complete("x")
        assert server.connections == 1
        assert (transport.statistics().busy, transport.statistics().idle) == (0, 1)
    assert transport.statistics().idle == 0


async def test_concurrent_calls_open_connections_and_use_them_again(
    server: FakeProvider,
) -> None:
    server.plan(lambda _: Answer(delay=0.05))
    async with Transport() as transport:
        lm = model(server, transport)
        await many(lm, 50)
        assert transport.statistics().idle == 50
        await many(lm, 50)
    assert server.connections == 50


async def test_no_more_connections_than_allowed(server: FakeProvider) -> None:
    server.plan(lambda _: Answer(delay=0.01))
    async with Transport(max_connections=3) as transport:
        await many(model(server, transport), 30)
    assert len(server.requests) == 30
    assert server.most_open_connections == 3


async def test_a_cancelled_wait_for_a_connection_takes_none(
    server: FakeProvider,
) -> None:
    server.plan([Hang()])
    async with Transport(max_connections=1) as transport:
        lm = model(server, transport)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lm.complete, "x")
            with trio.move_on_after(0.05) as scope:
                await lm.complete("y")
            assert scope.cancelled_caught
            nursery.cancel_scope.cancel()
        assert transport.statistics().busy == 0
        assert (await lm.complete("z")).text == "ok"


async def test_calls_cancelled_before_they_begin_leave_no_socket(
    server: FakeProvider,
) -> None:
    async with Transport() as transport:
        lm = model(server, transport)
        await many(lm, 5)
        for _ in range(5):
            with trio.move_on_after(0) as scope:
                await lm.complete("x")
            assert scope.cancelled_caught
        assert transport.statistics().busy == 0
    with trio.fail_after(2):
        while server.open_connections:
            await trio.sleep(0.001)


async def test_a_connection_the_server_closed_is_not_used_again(
    server: FakeProvider,
) -> None:
    async with Transport() as transport:
        lm = model(server, transport)
        await many(lm, 5)
        server.close_connections()
        with trio.fail_after(2):
            while server.open_connections:
                await trio.sleep(0.001)
        await many(lm, 5)  # with a single attempt each


async def test_a_connection_idle_for_too_long_is_closed(server: FakeProvider) -> None:
    async with Transport(keepalive_seconds=0.05) as transport:
        lm = model(server, transport)
        server.plan(lambda _: Answer(delay=0.01))
        await many(lm, 5)
        await trio.sleep(0.1)
        await lm.complete("x")
        assert transport.statistics().idle == 1
        with trio.fail_after(2):
            while server.open_connections > 1:
                await trio.sleep(0.001)


async def test_a_stream_left_early_closes_its_connection(server: FakeProvider) -> None:
    server.plan([Answer("a long answer " * 10, pace=0.01)])
    async with Transport() as transport:
        lm = model(server, transport)
        async with lm.stream("x") as stream:
            await anext(stream)
        assert (transport.statistics().busy, transport.statistics().idle) == (0, 0)
        async with lm.stream("x") as stream:
            assert (await stream.read()).text == "ok"
        assert transport.statistics().idle == 1


async def test_a_compressed_body_is_read(server: FakeProvider) -> None:
    body = b'{"choices": [{"message": {"content": "packed"}}]}'
    server.plan([Raw(gzip.compress(body), headers={"content-encoding": "gzip"})])
    async with Transport() as transport:
        assert (await model(server, transport).complete("x")).text == "packed"
    assert server.requests[0].headers["accept-encoding"] == "gzip, deflate"


async def test_httpx_can_use_the_transport(server: FakeProvider) -> None:
    server.plan([Answer("one"), Raw(b"x" * 300_000), Answer(delay=1.0)])
    async with httpx.AsyncClient(transport=Transport()) as client:
        url = f"{server.url}/chat/completions"
        reply = await client.post(url, json={"model": "m"})
        assert reply.json()["choices"][0]["message"]["content"] == "one"
        async with client.stream("POST", url, json={}) as streamed:
            assert len(await streamed.aread()) == 300_000
        with pytest.raises(httpx.ReadTimeout):
            await client.post(url, json={}, timeout=0.05)
    async with httpx.AsyncClient(transport=Transport()) as client:
        with pytest.raises(httpx.ConnectError):
            await client.get("http://127.0.0.1:1/")
    assert server.connections == 1


async def test_a_wait_for_a_connection_ends_at_httpxs_pool_timeout(
    server: FakeProvider,
) -> None:
    server.plan([Hang()])
    async with (
        Transport(max_connections=1) as transport,
        httpx.AsyncClient(
            transport=transport, timeout=httpx.Timeout(None, pool=0.05)
        ) as http,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(http.post, f"{server.url}/chat/completions")
        while not server.requests:
            await trio.sleep(0.001)
        with pytest.raises(httpx.PoolTimeout, match=r"0\.05 s"):
            await http.post(f"{server.url}/chat/completions")
        nursery.cancel_scope.cancel()


async def test_a_client_or_a_transport_of_httpx_can_be_passed_in(
    server: FakeProvider,
) -> None:
    async with httpx.AsyncClient(headers={"x-mine": "yes"}) as client:
        lm = OpenAI("m", api_key="k", base_url=server.url, client=client)
        assert (await lm.complete("x")).text == "ok"
        async with lm.stream("x") as stream:
            assert (await stream.read()).text == "ok"
    assert server.requests[0].headers["x-mine"] == "yes"
    async with httpx.AsyncHTTPTransport() as transport:
        assert (await model(server, transport).complete("x")).text == "ok"
    with pytest.raises(ConnectionFailedError, match="could not connect"):
        async with httpx.AsyncHTTPTransport() as transport:
            await OpenAI(
                "m",
                api_key="",
                base_url="http://127.0.0.1:1",
                retries=ONCE,
                transport=transport,
            ).complete("x")


async def test_what_comes_after_a_reply_is_not_taken_for_the_next(
    server: FakeProvider,
) -> None:
    """A server that says too much gets a new connection, not a shifted answer."""
    body = b'{"choices": [{"message": {"content": "mine"}}]}'
    stray = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}"
    head = b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(body)

    async def answer(stream: trio.SocketStream) -> None:
        await stream.receive_some()
        await stream.send_all(head + body + stray)
        await trio.sleep_forever()

    async with trio.open_nursery() as nursery:
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        port: int = listeners[0].socket.getsockname()[1]
        nursery.start_soon(trio.serve_listeners, answer, listeners)
        async with Transport() as transport:
            lm = OpenAI(
                "m",
                api_key="k",
                base_url=f"http://127.0.0.1:{port}/v1",
                retries=ONCE,
                transport=transport,
            )
            for _ in range(3):
                assert (await lm.complete("x", timeout=2)).text == "mine"
            assert transport.statistics().idle == 0
        nursery.cancel_scope.cancel()
