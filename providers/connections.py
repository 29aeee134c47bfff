"""What carries requests: connections of our own, and those of httpcore."""

import contextlib
from collections.abc import AsyncIterable, AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import Protocol, cast

import httpcore
import trio

from dspex.providers.exchange import HeaderList
from dspex.providers.transport_errors import CORE_ERRORS


@dataclass(slots=True, eq=False)
class Outgoing:
    """A request on its way out; `timeouts` are those of httpx, in seconds."""

    method: bytes
    url: httpcore.URL
    headers: HeaderList
    body: bytes | AsyncIterable[bytes]
    timeouts: Mapping[str, float | None] = field(
        default_factory=dict[str, float | None]
    )


class Incoming(Protocol):
    """A reply whose head is there and whose body is still coming."""

    @property
    def status(self) -> int:
        """The status."""
        ...

    @property
    def headers(self) -> HeaderList:
        """The headers as they came."""
        ...

    @property
    def http_version(self) -> bytes:
        """The protocol, such as b"HTTP/2"."""
        ...

    async def next_chunk(self) -> bytes:
        """Give the next part of the body, as it was sent; b"" at its end.

        Raises:
            httpcore.NetworkError: it broke; its other errors for the other reasons.
        """
        ...

    async def end(self, *, is_whole: bool) -> bool:
        """Be done with it; tell whether its connection is now free for another.

        `is_whole` tells that the body was read to its end.
        """
        ...


class Connection(Protocol):
    """Sends requests to one origin."""

    async def begin(self, outgoing: Outgoing) -> Incoming:
        """Send a request and give its reply, once the head of it is there.

        Raises:
            httpcore.NetworkError: it broke; its other errors for the other reasons.
        """
        ...

    def is_broken(self) -> bool:
        """Whether nothing may be sent on it any more; asked while it lies idle."""
        ...

    async def aclose(self) -> None:
        """Close it; requests under way end without an answer."""
        ...


class CoreConnection:
    """A connection of httpcore that may carry many requests: HTTP/2, or a proxy."""

    def __init__(
        self, core: httpcore.AsyncHTTPConnection | httpcore.AsyncHTTPProxy
    ) -> None:
        self._core = core
        self._is_spent = False

    async def begin(self, outgoing: Outgoing) -> "CoreIncoming":
        """Send a request and give its reply, once the head of it is there.

        Raises:
            httpcore.ConnectionNotAvailable: it has no room for another request.
            httpcore.NetworkError: it broke; its other errors for the other reasons.
        """
        request = httpcore.Request(
            outgoing.method,
            outgoing.url,
            headers=list(outgoing.headers),
            content=outgoing.body,
            extensions={"timeout": outgoing.timeouts},
        )
        try:
            response = await self._core.handle_async_request(request)
        except httpcore.ConnectionNotAvailable:
            raise
        except BaseException:
            await self.spend()
            raise
        return CoreIncoming(self, response)

    @property
    def is_available(self) -> bool:
        """Whether it could carry one more request."""
        core = self._core
        return not isinstance(core, httpcore.AsyncHTTPConnection) or (
            core.is_available() and not self._is_spent
        )

    @property
    def is_idle(self) -> bool:
        """Whether it belongs to one origin and carries nothing now."""
        core = self._core
        return isinstance(core, httpcore.AsyncHTTPConnection) and core.is_idle()

    async def spend(self) -> None:
        """Let it carry no more requests, for one was left before its end.

        httpcore resets no stream of HTTP/2: the server would go on sending, and count
        the stream among those that are open.
        """
        self._is_spent = True
        await self.close_if_spent()

    async def close_if_spent(self) -> None:
        """Close it if it shall carry no more, and the last request has ended."""
        if self._is_spent and self.is_idle:
            with trio.CancelScope(shield=True):
                await self._core.aclose()

    def is_broken(self) -> bool:
        """Whether nothing may be sent on it any more."""
        core = self._core
        return isinstance(core, httpcore.AsyncHTTPConnection) and core.has_expired()

    async def aclose(self) -> None:
        """Close it."""
        await self._core.aclose()


class CoreIncoming:
    """A reply that httpcore reads."""

    def __init__(
        self,
        connection: CoreConnection,
        response: httpcore.Response,
    ) -> None:
        self.status = response.status
        self.headers: HeaderList = response.headers
        self.http_version = cast(
            "bytes", response.extensions.get("http_version", b"HTTP/1.1")
        )
        self._connection = connection
        self._response = response
        self._body: AsyncIterator[bytes] = cast(
            "AsyncIterable[bytes]", response.stream
        ).__aiter__()

    async def next_chunk(self) -> bytes:
        """Give the next part of the body, as it was sent; b"" at its end.

        Raises:
            httpcore.NetworkError: it broke; its other errors for the other reasons.
        """
        async for chunk in self._body:
            if chunk:
                return chunk
        return b""

    async def end(self, *, is_whole: bool) -> bool:
        """Be done with it; tell whether its connection is now free for another."""
        connection = self._connection
        if not is_whole:
            await self._stop_reading()
        await self._response.aclose()
        if self.http_version != b"HTTP/2":
            return connection.is_idle
        if is_whole:
            await connection.close_if_spent()
        else:
            await connection.spend()
        return False

    async def _stop_reading(self) -> None:
        """End the generators that read the body, which httpcore leaves open.

        They are nested and only the outermost could be closed: a read that is
        cancelled ends them all.
        """
        with trio.CancelScope(shield=True) as scope, contextlib.suppress(*CORE_ERRORS):
            scope.cancel()
            async for _ in self._body:
                pass
