import gzip
import ssl
import urllib.request
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import h2.config
import h2.connection
import h2.events
import httpcore
import httpx
import pytest
import trio
import trio.testing
import trustme

from dspex.providers import ConnectionFailedError, OpenAI, RetryPolicy, Transport
from dspex.providers.origins import proxy_of
from dspex.testing import Answer, FakeProvider, Hang, Raw, open_fake_provider

ONCE = RetryPolicy(attempts=1)


@pytest.fixture
async def server() -> AsyncGenerator[FakeProvider]:
    async with open_fake_provider() as server:
        yield server


def model(server: FakeProvider, transport: httpx.AsyncBaseTransport) -> OpenAI:
    return OpenAI(
        "m", api_key="k", base_url=server.url, retries=ONCE, transport=transport
    )


async def many(lm: OpenAI, count: int) -> None:
    async with trio.open_nursery() as nursery:
        for _ in range(count):
            nursery.start_soon(lm.complete, "x")


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


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


def server_context(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    return context


async def test_tls_with_an_own_authority(authority: trustme.CA) -> None:
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)
    with authority.cert_pem.tempfile() as path:
        async with open_fake_provider(ssl_context=server_context(authority)) as server:
            for verify in (trusting, path, False):
                async with Transport(verify=verify) as transport:
                    lm = model(server, transport)
                    assert (await lm.complete("x")).text == "ok"
                    assert (await lm.complete("x")).text == "ok"
            async with Transport() as transport:
                with pytest.raises(ConnectionFailedError, match="certificate"):
                    await model(server, transport).complete("x")
                assert transport.statistics().busy == 0


async def test_tls_to_a_server_without_it(server: FakeProvider) -> None:
    lm = OpenAI(
        "m",
        api_key="k",
        base_url=server.url.replace("http:", "https:"),
        retries=ONCE,
    )
    with trio.fail_after(3), pytest.raises(ConnectionFailedError, match="TLS"):
        await lm.complete("x", timeout=2)


class HTTP2Server:
    """Answers every request on a connection at once, when `together` are there.

    With `ends` off it answers without an end.
    """

    def __init__(self, together: int, *, ends: bool = True) -> None:
        self.connections = 0
        self.open_connections = 0
        self.ends = ends
        self._together = together

    async def serve(self, stream: "trio.SSLStream[trio.SocketStream]") -> None:
        self.connections += 1
        self.open_connections += 1
        try:
            await self._serve(stream)
        except trio.BrokenResourceError:
            pass  # the client left without a farewell, as HTTP clients do
        finally:
            self.open_connections -= 1
            await trio.aclose_forcefully(stream)

    async def _serve(self, stream: "trio.SSLStream[trio.SocketStream]") -> None:
        connection = h2.connection.H2Connection(
            h2.config.H2Configuration(client_side=False)
        )
        connection.initiate_connection()
        waiting: list[int] = []
        await stream.send_all(connection.data_to_send())
        while data := await stream.receive_some(65_536):
            for event in connection.receive_data(bytes(data)):
                if isinstance(event, h2.events.StreamEnded):
                    assert event.stream_id is not None
                    waiting.append(event.stream_id)
            if len(waiting) >= self._together:
                for number in waiting:
                    connection.send_headers(number, [(":status", "200")])
                    body = b'{"choices": [{"message": {"content": "two"}}]}'
                    connection.send_data(number, body, end_stream=self.ends)
                waiting.clear()
            await stream.send_all(connection.data_to_send())


@asynccontextmanager
async def open_http2(
    server: HTTP2Server, authority: trustme.CA
) -> AsyncGenerator[tuple[Transport, OpenAI]]:
    context = server_context(authority)
    context.set_alpn_protocols(["h2"])
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)
    listeners = await trio.open_ssl_over_tcp_listeners(0, context, host="127.0.0.1")
    tcp = listeners[0].transport_listener
    assert isinstance(tcp, trio.SocketListener)
    port: int = tcp.socket.getsockname()[1]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, server.serve, listeners)
        async with Transport(http2=True, verify=trusting) as transport:
            lm = OpenAI(
                "m",
                api_key="k",
                base_url=f"https://127.0.0.1:{port}/v1",
                transport=transport,
                retries=ONCE,
            )
            with trio.fail_after(5):
                yield transport, lm
        nursery.cancel_scope.cancel()


async def test_http2_carries_many_calls_on_one_connection(
    authority: trustme.CA,
) -> None:
    server = HTTP2Server(together=20)
    async with open_http2(server, authority) as (transport, lm):
        await many(lm, 20)
        await many(lm, 20)
        assert transport.statistics().busy == 0
    assert server.connections == 1


async def leave_early(transport: Transport, url: str) -> None:
    """Take the first bytes of a reply and go."""
    async with transport.stream(url, headers=(), body=b"{}") as reply:
        assert await reply.next_chunk()


async def test_http2_replies_left_early_close_their_connection(
    authority: trustme.CA,
) -> None:
    """Once nobody uses it: httpcore cannot reset a single stream."""
    server = HTTP2Server(together=1, ends=False)
    async with open_http2(server, authority) as (transport, lm):
        url = f"{lm!r}".rpartition(" ")[2].rstrip(">")
        other_ends = trio.Event()

        async def stay() -> None:
            async with transport.stream(url, headers=(), body=b"{}") as reply:
                assert await reply.next_chunk()
                await other_ends.wait()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(stay)
            await trio.testing.wait_all_tasks_blocked(0.02)
            await leave_early(transport, url)
            await leave_early(transport, url)
            with trio.move_on_after(0.05):
                await lm.complete("x")  # without an end, too
            other_ends.set()
        while server.open_connections:
            await trio.sleep(0.001)
        server.ends = True
        assert (await lm.complete("x")).text == "two"
        assert transport.statistics().busy == 0
    assert server.connections == 4


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
