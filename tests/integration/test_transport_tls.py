"""Transport: TLS, and many calls on one connection of HTTP/2."""

import ssl
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import h2.config
import h2.connection
import h2.events
import pytest
import trio
import trio.testing
import trustme

from dspex.providers import ConnectionFailedError, OpenAI, Transport
from dspex.testing import FakeProvider, open_fake_provider
from tests.integration.transport_client import ONCE, many, model


@pytest.fixture
async def server() -> AsyncGenerator[FakeProvider]:
    async with open_fake_provider() as server:
        yield server


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
