"""Connections to providers: a pool whose cost does not grow with its size.

Idle connections of one origin lie on a stack: the one used last is used next, and the
oldest are closed when they have been idle for too long. Taking and giving back is
O(1); httpcore's own pool looks at every connection at every step.
"""

import ssl
import urllib.request
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from functools import lru_cache
from types import TracebackType
from typing import Any, Final, Self, cast

import httpcore
import httpx
import trio

from dspex.providers.exchange import ExchangeError, HeaderList, OversizeError, Reply
from dspex.providers.network import Network

CONNECT_TIMEOUT: Final = 10.0

# The subclasses come before their bases.
_HTTPX_ERRORS: Final[tuple[tuple[type[Exception], type[httpx.TransportError]], ...]] = (
    (httpcore.ConnectTimeout, httpx.ConnectTimeout),
    (httpcore.ReadTimeout, httpx.ReadTimeout),
    (httpcore.WriteTimeout, httpx.WriteTimeout),
    (httpcore.PoolTimeout, httpx.PoolTimeout),
    (httpcore.ConnectError, httpx.ConnectError),
    (httpcore.ReadError, httpx.ReadError),
    (httpcore.WriteError, httpx.WriteError),
    (httpcore.ProxyError, httpx.ProxyError),
    (httpcore.UnsupportedProtocol, httpx.UnsupportedProtocol),
    (httpcore.LocalProtocolError, httpx.LocalProtocolError),
    (httpcore.RemoteProtocolError, httpx.RemoteProtocolError),
)
_CORE_ERRORS: Final[tuple[type[Exception], ...]] = (
    httpcore.TimeoutException,
    httpcore.NetworkError,
    httpcore.ProtocolError,
    httpcore.ProxyError,
    httpcore.UnsupportedProtocol,
)


@dataclass(frozen=True, slots=True)
class TransportStatistics:
    """How many connections are carrying a request, and how many lie idle."""

    busy: int
    idle: int


@dataclass(slots=True)
class _Origin:
    """The connections to one scheme, host and port."""

    origin: httpcore.Origin
    is_closed: bool = False
    idle: deque[tuple[httpcore.AsyncHTTPConnection, float]] = field(
        default_factory=deque[tuple[httpcore.AsyncHTTPConnection, float]]
    )
    # With HTTP/2 many requests share this one; None until there is one.
    shared: httpcore.AsyncHTTPConnection | None = None
    proxy: httpcore.AsyncHTTPProxy | None = None


class Transport(httpx.AsyncBaseTransport):
    """A pool of connections under trio, for `OpenAI(transport=...)` or for httpx.

    At most `max_connections` requests are under way; more wait in order. `verify` is
    True, a path to a CA bundle, an SSL context, or False. Connections idle for
    `keepalive_seconds` are closed at the next use. `http2` needs the package h2.
    Proxies (HTTPS_PROXY and so on) and SSL_CERT_FILE are read from the environment,
    when it is made, unless `trust_env` is off.
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
        self._origins: dict[tuple[bytes, bytes, int], _Origin] = {}
        self._proxies = urllib.request.getproxies() if trust_env else {}

    def statistics(self) -> TransportStatistics:
        """Count the connections."""
        idle = sum(len(origin.idle) for origin in self._origins.values())
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
        except _CORE_ERRORS as error:
            problem = _describe(error)
        else:
            return Reply(lease.response.status, lease.response.headers, content)
        # Raised here, so that frames which hold the key are not in its traceback.
        raise ExchangeError(problem)

    @asynccontextmanager
    async def stream(
        self, url: str, *, headers: HeaderList, body: bytes
    ) -> AsyncGenerator["Lease"]:
        """Send, and give the reply once its head is there; it ends with the block.

        Raises:
            ExchangeError: there is none.
        """
        lease, problem = None, ""
        try:
            lease = await self._begin(_post_request(url, headers, body))
        except _CORE_ERRORS as error:
            problem = _describe(error)
        if lease is None:
            raise ExchangeError(problem)
        try:
            yield lease
        finally:
            await lease.end()

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Serve httpx: `httpx.AsyncClient(transport=Transport())`."""
        url = request.url
        core_request = httpcore.Request(
            request.method,
            httpcore.URL(
                scheme=url.raw_scheme,
                host=url.raw_host,
                port=url.port,
                target=url.raw_path,
            ),
            headers=request.headers.raw,
            content=cast("AsyncIterable[bytes]", request.stream),
            extensions=request.extensions,
        )
        try:
            lease = await self._begin(core_request)
        except _CORE_ERRORS as error:
            raise _as_httpx(error, request) from error
        return httpx.Response(
            lease.response.status,
            headers=lease.response.headers,
            stream=_HTTPXStream(lease, request),
            extensions=cast("dict[str, Any]", lease.response.extensions),
        )

    async def aclose(self) -> None:
        """Close the idle connections; requests under way end by themselves."""
        origins, self._origins = list(self._origins.values()), {}
        for origin in origins:
            origin.is_closed = True
            while origin.idle:
                await origin.idle.pop()[0].aclose()
            if origin.shared is not None:
                await origin.shared.aclose()
            if origin.proxy is not None:
                await origin.proxy.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None = None,
        error: BaseException | None = None,
        traceback: TracebackType | None = None,
    ) -> None:
        await self.aclose()

    async def _begin(self, request: httpcore.Request) -> "Lease":
        """Send on a connection of the request's origin; give the reply's head."""
        where = request.url.origin
        key = (where.scheme, where.host, where.port)
        origin = self._origins.get(key)
        if origin is None:
            origin = self._origins[key] = self._open_origin(where)
        try:
            # No checkpoint: the request itself makes enough of them.
            self._limit.acquire_on_behalf_of_nowait(request)
        except trio.WouldBlock:
            await self._limit.acquire_on_behalf_of(request)
        try:
            while True:
                connection = await self._take(origin)
                try:
                    response = await connection.handle_async_request(request)
                except httpcore.ConnectionNotAvailable:
                    # It was thought to be HTTP/2 with a stream free, and is not.
                    if origin.shared is connection:
                        origin.shared = None
                except BaseException:
                    # httpcore forgets to, when cancelled before it has begun.
                    if connection not in (origin.shared, origin.proxy):
                        with trio.CancelScope(shield=True):
                            await connection.aclose()
                    raise
                else:
                    return Lease(self, origin, connection, request, response)
        except BaseException:
            self._limit.release_on_behalf_of(request)
            raise

    def _open_origin(self, origin: httpcore.Origin) -> _Origin:
        scheme, host = origin.scheme.decode(), origin.host.decode()
        proxy_url = self._proxies.get(scheme)
        if proxy_url is None or urllib.request.proxy_bypass(host):
            return _Origin(origin)
        url = httpx.URL(proxy_url)
        proxy = httpcore.AsyncHTTPProxy(
            proxy_url=str(url.copy_with(userinfo=b"")),
            proxy_auth=(url.username, url.password) if url.username else None,
            ssl_context=self._tls(),
            keepalive_expiry=self._keepalive_seconds,
            max_connections=None,
            http2=self._http2,
            network_backend=self._network,
        )
        return _Origin(origin, proxy=proxy)

    def _tls(self) -> ssl.SSLContext:
        if self._ssl_context is None:
            if isinstance(self._verify, str):
                self._ssl_context = ssl.create_default_context(cafile=self._verify)
            else:
                self._ssl_context = httpx.create_ssl_context(
                    verify=self._verify, trust_env=self._trust_env
                )
        return self._ssl_context

    async def _take(
        self, origin: _Origin
    ) -> httpcore.AsyncHTTPConnection | httpcore.AsyncHTTPProxy:
        if origin.proxy is not None:
            return origin.proxy
        shared = origin.shared
        if shared is not None:
            if shared.is_available() and not shared.has_expired():
                return shared
            origin.shared = None
        oldest_allowed = trio.current_time() - self._keepalive_seconds
        while origin.idle:
            connection, since = origin.idle.pop()
            # has_expired also tells whether the server has closed it.
            if since > oldest_allowed and not connection.has_expired():
                return connection
            await connection.aclose()
        connection = httpcore.AsyncHTTPConnection(
            origin.origin,
            ssl_context=self._tls() if origin.origin.scheme == b"https" else None,
            http2=self._http2,
            network_backend=self._network,
        )
        if self._http2:
            origin.shared = connection
        return connection

    async def give_back(self, lease: "Lease", *, reusable: bool) -> None:
        """Take a connection back from a lease that ended."""
        self._limit.release_on_behalf_of(lease.request)
        connection, origin = lease.connection, lease.origin
        if (
            not isinstance(connection, httpcore.AsyncHTTPConnection)  # a proxy's pool
            or lease.response.extensions.get("http_version") == b"HTTP/2"
        ):
            return
        if origin.shared is connection:
            origin.shared = None
        if reusable and connection.is_idle():
            if origin.is_closed:
                await connection.aclose()
                return
            origin.idle.append((connection, trio.current_time()))
        oldest_allowed = trio.current_time() - self._keepalive_seconds
        while origin.idle and origin.idle[0][1] < oldest_allowed:
            await origin.idle.popleft()[0].aclose()


class Lease:
    """A connection that carries one reply; it goes back to the pool at the end."""

    def __init__(
        self,
        transport: Transport,
        origin: _Origin,
        connection: httpcore.AsyncHTTPConnection | httpcore.AsyncHTTPProxy,
        request: httpcore.Request,
        response: httpcore.Response,
    ) -> None:
        self.origin = origin
        self.connection = connection
        self.request = request
        self.response = response
        self._transport = transport
        self._body = cast("AsyncIterable[bytes]", response.stream).__aiter__()
        self._exhausted = False
        self._ended = False

    @property
    def status(self) -> int:
        """The status."""
        return self.response.status

    @property
    def headers(self) -> Mapping[str, str]:
        """The headers, with lower-case names."""
        return Reply(self.response.status, self.response.headers, b"").headers

    @property
    def raw_headers(self) -> HeaderList:
        """The headers as they came."""
        return self.response.headers

    async def read(self, limit: int) -> bytes:
        """Give the rest of the body, as it was sent, and end.

        Raises:
            ExchangeError: the connection broke.
            OversizeError: it is longer than `limit` bytes.
        """
        try:
            return await self.read_raw(limit)
        except _CORE_ERRORS as error:
            problem = _describe(error)
        raise ExchangeError(problem)

    async def next_chunk(self) -> bytes:
        """Give the next part of the body, as it was sent; b"" at its end.

        Raises:
            ExchangeError: the connection broke.
        """
        try:
            return await self.next_raw()
        except _CORE_ERRORS as error:
            problem = _describe(error)
        raise ExchangeError(problem)

    async def read_raw(self, limit: int) -> bytes:
        """Do what `read` does, with httpcore's own errors."""
        chunks: list[bytes] = []
        size = 0
        try:
            async for chunk in self._body:
                chunks.append(chunk)
                size += len(chunk)
                if size > limit:
                    break
        except BaseException:
            await self.end()
            raise
        if size > limit:
            await self.end()
            raise OversizeError
        await self._finish()
        return chunks[0] if len(chunks) == 1 else b"".join(chunks)

    async def next_raw(self) -> bytes:
        """Do what `next_chunk` does, with httpcore's own errors."""
        async for chunk in self._body:
            if chunk:
                return chunk
        self._exhausted = True
        return b""

    async def end(self) -> None:
        """Give the connection back; close it first if there is more to read."""
        if self._ended:
            return
        if self._exhausted:
            await self._finish()
            return
        with trio.CancelScope(shield=True):
            if isinstance(self.connection, httpcore.AsyncHTTPConnection) and (
                self.response.extensions.get("http_version") != b"HTTP/2"
            ):
                await self.connection.aclose()
                # Nothing more can come: this ends httpcore's generators in order.
                with suppress(*_CORE_ERRORS):
                    while await self.next_raw():
                        pass
            await self._finish(reusable=False)

    async def _finish(self, *, reusable: bool = True) -> None:
        self._ended = True
        await self.response.aclose()
        await self._transport.give_back(self, reusable=reusable)


class _HTTPXStream(httpx.AsyncByteStream):
    def __init__(self, lease: Lease, request: httpx.Request) -> None:
        self._lease = lease
        self._request = request

    async def __aiter__(self) -> AsyncIterator[bytes]:
        try:
            while chunk := await self._lease.next_raw():
                yield chunk
        except _CORE_ERRORS as error:
            raise _as_httpx(error, self._request) from error

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


def _post_request(url: str, headers: HeaderList, body: bytes) -> httpcore.Request:
    core_url, host = _parse_url(url)
    length = (b"Content-Length", b"%d" % len(body))
    return httpcore.Request(
        b"POST",
        core_url,
        headers=[host, *headers, length],
        content=body,
        # What follows the connection is bounded by the deadline of the whole call.
        extensions={"timeout": {"connect": CONNECT_TIMEOUT}},
    )


def _describe(error: Exception) -> str:
    kinds = (httpcore.ConnectError, httpcore.ConnectTimeout)
    what = "could not connect" if isinstance(error, kinds) else "the connection broke"
    detail = str(error) or type(error).__name__
    return f"{what} ({detail})"


def _as_httpx(error: Exception, request: httpx.Request) -> httpx.TransportError:
    for core, kind in _HTTPX_ERRORS:
        if isinstance(error, core):
            return kind(str(error), request=request)
    return httpx.TransportError(str(error), request=request)
