"""The connections to one origin, as a stack: the one used last is used next.

Taking and giving back is O(1); httpcore's own pool looks at every connection at every
step. With HTTP/2 or a proxy there is a single object of httpcore that all share.
"""

import ssl
import urllib.request
from collections import deque
from collections.abc import Callable, Mapping
from typing import Final

import httpcore
import httpx
import trio

from dspex.providers.connections import Connection, CoreConnection, Outgoing
from dspex.providers.http11 import HTTP11Connection
from dspex.providers.network import Network

CONNECT_TIMEOUT: Final = 10.0


class Origin:
    """Opens connections to one scheme, host and port, and keeps those that lie idle."""

    def __init__(
        self,
        origin: httpcore.Origin,
        *,
        network: Network,
        tls: Callable[[], ssl.SSLContext],
        http2: bool,
        keepalive_seconds: float,
        proxies: Mapping[str, str],
    ) -> None:
        self._origin = origin
        self._network = network
        self._tls = tls
        self._http2 = http2
        self._keepalive_seconds = keepalive_seconds
        self._idle: deque[tuple[Connection, float]] = deque()
        self._shared: CoreConnection | None = None
        self._proxy: CoreConnection | None = None
        self._is_closed = False
        url = proxy_of(origin, proxies)
        if url is not None:
            self._proxy = CoreConnection(self._open_proxy(url))

    @property
    def idle(self) -> int:
        """How many connections lie idle."""
        return len(self._idle)

    async def take(self, outgoing: Outgoing) -> Connection:
        """Give a connection that can carry one more request.

        Raises:
            httpcore.ConnectError: none can be opened.
        """
        if self._proxy is not None:
            return self._proxy
        if self._shared is not None:
            if self._shared.is_available and not self._shared.is_broken():
                return self._shared
            self._shared = None
        oldest_allowed = trio.current_time() - self._keepalive_seconds
        while self._idle:
            connection, since = self._idle.pop()
            if since > oldest_allowed and not connection.is_broken():
                return connection
            await connection.aclose()
        if self._http2:
            self._shared = self._open_http2()
            return self._shared
        return await self._open_http11(outgoing)

    def is_shared(self, connection: Connection) -> bool:
        """Whether others may be using it now."""
        return connection in (self._shared, self._proxy)

    def forget(self, connection: Connection) -> None:
        """Give this one to nobody any more."""
        if self._shared is connection:
            self._shared = None

    async def give_back(self, connection: Connection) -> None:
        """Take back one that nobody else uses and that can carry another request."""
        self.forget(connection)
        if self._is_closed:
            await connection.aclose()
            return
        now = trio.current_time()
        self._idle.append((connection, now))
        oldest_allowed = now - self._keepalive_seconds
        while self._idle and self._idle[0][1] < oldest_allowed:
            await self._idle.popleft()[0].aclose()

    async def aclose(self) -> None:
        """Close what lies idle; requests under way end by themselves."""
        self._is_closed = True
        while self._idle:
            await self._idle.pop()[0].aclose()
        for core in (self._shared, self._proxy):
            if core is not None:
                await core.aclose()

    async def _open_http11(self, outgoing: Outgoing) -> HTTP11Connection:
        origin = self._origin
        host = origin.host.decode("ascii")
        seconds = outgoing.timeouts.get("connect")
        stream = await self._network.connect_tcp(host, origin.port, seconds)
        if origin.scheme == b"https":
            stream = await stream.start_tls(self._tls(), host, seconds)
        return HTTP11Connection(stream)

    def _open_http2(self) -> CoreConnection:
        return CoreConnection(
            httpcore.AsyncHTTPConnection(
                self._origin,
                ssl_context=self._tls() if self._origin.scheme == b"https" else None,
                http2=True,
                network_backend=self._network,
            )
        )

    def _open_proxy(self, url: httpx.URL) -> httpcore.AsyncHTTPProxy:
        return httpcore.AsyncHTTPProxy(
            proxy_url=str(url.copy_with(userinfo=b"")),
            proxy_auth=(url.username, url.password) if url.username else None,
            ssl_context=self._tls(),
            keepalive_expiry=self._keepalive_seconds,
            max_connections=None,
            http2=self._http2,
            network_backend=self._network,
        )


def proxy_of(origin: httpcore.Origin, proxies: Mapping[str, str]) -> httpx.URL | None:
    """Give the proxy for an origin, by what `urllib.request.getproxies` gave.

    Raises:
        httpcore.ProxyError: its kind is not supported.
    """
    scheme, host = origin.scheme.decode(), origin.host.decode()
    text = proxies.get(scheme) or proxies.get("all")
    if not text or urllib.request.proxy_bypass(f"{host}:{origin.port}", proxies):
        return None
    url = httpx.URL(text if "://" in text else f"http://{text}")
    if url.scheme not in ("http", "https"):
        raise httpcore.ProxyError(
            f"the environment names a {url.scheme}:// proxy; only http:// and "
            "https:// are supported"
        )
    return url
