"""Connections to providers: a pool whose cost does not grow with its size."""

import ssl
import urllib.request
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import lru_cache
from types import TracebackType
from typing import Any, Final, Self, cast

import httpcore
import httpx
import trio

from dspex.providers.connections import Outgoing
from dspex.providers.exchange import ExchangeError, HeaderList, Reply
from dspex.providers.lease import Lease
from dspex.providers.network import Network
from dspex.providers.origins import CONNECT_TIMEOUT, Origin
from dspex.providers.transport_errors import CORE_ERRORS, as_httpx, describe
from dspex.runtime.context import before_send

# What follows the connection is bounded by the deadline of the whole call.
_TIMEOUTS: Final[dict[str, float | None]] = {"connect": CONNECT_TIMEOUT}


@dataclass(frozen=True, slots=True)
class TransportStatistics:
    """How many connections are carrying a request, and how many lie idle."""

    busy: int
    idle: int


class Transport(httpx.AsyncBaseTransport):
    """A pool of connections under trio, for `OpenAI(transport=...)` or for httpx.

    At most `max_connections` requests are under way; more wait in order. `verify` is
    True, a path to a CA bundle, an SSL context, or False. Connections idle for
    `keepalive_seconds` are closed at the next use. `http2` needs the package h2.
    Proxies (HTTPS_PROXY, ALL_PROXY, NO_PROXY and so on) and SSL_CERT_FILE are read
    from the environment, when it is made, unless `trust_env` is off.
    """

    def __init__(
        self,
        *,
        verify: ssl.SSLContext | str | bool = True,
        http2: bool = False,
        trust_env: bool = True,
        max_connections: int = 4096,
        keepalive_seconds: float = 30.0,
    ) -> None:
        self._verify = verify
        self._http2 = http2
        self._trust_env = trust_env
        self._keepalive_seconds = keepalive_seconds
        self._limit = trio.CapacityLimiter(max_connections)
        self._network = Network()
        self._ssl_context: ssl.SSLContext | None = None
        self._origins: dict[tuple[bytes, bytes, int | None], Origin] = {}
        self._proxies = urllib.request.getproxies() if trust_env else {}

    def statistics(self) -> TransportStatistics:
        """Count the connections."""
        idle = sum(origin.idle for origin in self._origins.values())
        return TransportStatistics(int(self._limit.borrowed_tokens), idle)

    async def post(
        self, url: str, *, headers: HeaderList, body: bytes, limit: int
    ) -> Reply:
        """Send, and give the reply with its content-encoding still on.

        Raises:
            ExchangeError: there is none.
            OversizeError: its body is longer than `limit` bytes.
        """
        try:
            lease = await self._begin(_post_request(url, headers, body))
            content = await lease.read_raw(limit)
        except CORE_ERRORS as error:
            problem = describe(error)
        else:
            return Reply(lease.status, lease.raw_headers, content)
        # Raised here, so that frames which hold the key are not in its traceback.
        raise ExchangeError(problem)

    @asynccontextmanager
    async def stream(
        self, url: str, *, headers: HeaderList, body: bytes
    ) -> AsyncGenerator[Lease]:
        """Send, and give the reply once its head is there; it ends with the block.

        Raises:
            ExchangeError: there is none.
        """
        lease, problem = None, ""
        try:
            lease = await self._begin(_post_request(url, headers, body))
        except CORE_ERRORS as error:
            problem = describe(error)
        if lease is None:
            raise ExchangeError(problem)
        try:
            yield lease
        finally:
            await lease.end()

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Serve httpx: `httpx.AsyncClient(transport=Transport())`."""
        url = request.url
        outgoing = Outgoing(
            request.method.encode("ascii"),
            httpcore.URL(
                scheme=url.raw_scheme,
                host=url.raw_host,
                port=url.port,
                target=url.raw_path,
            ),
            request.headers.raw,
            cast("AsyncIterable[bytes]", request.stream),
            request.extensions.get("timeout", {}),
        )
        try:
            lease = await self._begin(outgoing)
        except CORE_ERRORS as error:
            raise as_httpx(error, request) from error
        extensions: dict[str, Any] = {  # Any: as httpx has it
            "http_version": lease.http_version
        }
        return httpx.Response(
            lease.status,
            headers=list(lease.raw_headers),
            stream=_HTTPXStream(lease, request),
            extensions=extensions,
        )

    async def aclose(self) -> None:
        """Close the idle connections; requests under way end by themselves."""
        origins, self._origins = list(self._origins.values()), {}
        for origin in origins:
            await origin.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None = None,
        error: BaseException | None = None,
        traceback: TracebackType | None = None,
    ) -> None:
        await self.aclose()

    async def _begin(self, outgoing: Outgoing) -> Lease:
        """Send on a connection of the request's origin; give the reply's head."""
        url = outgoing.url
        origin = self._origins.get((url.scheme, url.host, url.port))
        if origin is None:
            origin = self._open_origin(url)
        try:
            # No checkpoint: the request itself makes enough of them.
            self._limit.acquire_on_behalf_of_nowait(outgoing)
        except trio.WouldBlock:
            await self._acquire(outgoing)
        try:
            while True:
                connection = await origin.take(outgoing)
                try:
                    if (check := before_send.get()) is not None:
                        await check()
                    incoming = await connection.begin(outgoing)
                except httpcore.ConnectionNotAvailable:
                    # It was thought to be HTTP/2 with a stream free, and is not.
                    origin.forget(connection)
                except BaseException:
                    if not origin.is_shared(connection):
                        with trio.CancelScope(shield=True):
                            await connection.aclose()
                    raise
                else:
                    return Lease(self._limit, origin, connection, outgoing, incoming)
        except BaseException:
            self._limit.release_on_behalf_of(outgoing)
            raise

    async def _acquire(self, outgoing: Outgoing) -> None:
        seconds = outgoing.timeouts.get("pool")
        if seconds is None:
            await self._limit.acquire_on_behalf_of(outgoing)
            return
        try:
            with trio.fail_after(seconds):
                await self._limit.acquire_on_behalf_of(outgoing)
        except trio.TooSlowError as error:
            raise httpcore.PoolTimeout(
                f"no connection was free within {seconds:g} s"
            ) from error

    def _open_origin(self, url: httpcore.URL) -> Origin:
        origin = self._origins[(url.scheme, url.host, url.port)] = Origin(
            url.origin,
            network=self._network,
            tls=self._tls,
            http2=self._http2,
            keepalive_seconds=self._keepalive_seconds,
            proxies=self._proxies,
        )
        return origin

    def _tls(self) -> ssl.SSLContext:
        if self._ssl_context is None:
            if isinstance(self._verify, str):
                self._ssl_context = ssl.create_default_context(cafile=self._verify)
            else:
                self._ssl_context = httpx.create_ssl_context(
                    verify=self._verify, trust_env=self._trust_env
                )
        return self._ssl_context


class _HTTPXStream(httpx.AsyncByteStream):
    def __init__(self, lease: Lease, request: httpx.Request) -> None:
        self._lease = lease
        self._request = request

    async def __aiter__(self) -> AsyncIterator[bytes]:
        try:
            while chunk := await self._lease.next_raw():
                yield chunk
        except CORE_ERRORS as error:
            raise as_httpx(error, self._request) from error

    async def aclose(self) -> None:
        await self._lease.end()


@lru_cache(maxsize=256)
def _parse_url(url: str) -> tuple[httpcore.URL, tuple[bytes, bytes]]:
    """Give the URL in parts, and its Host header."""
    parsed = httpx.URL(url)
    core = httpcore.URL(
        scheme=parsed.raw_scheme,
        host=parsed.raw_host,
        port=parsed.port,
        target=parsed.raw_path,
    )
    return core, (b"Host", parsed.netloc)


def _post_request(url: str, headers: HeaderList, body: bytes) -> Outgoing:
    core_url, host = _parse_url(url)
    length = (b"Content-Length", b"%d" % len(body))
    return Outgoing(b"POST", core_url, [host, *headers, length], body, _TIMEOUTS)
