"""The use of a connection by one request, from its reply's head to the end of it."""

from collections.abc import Mapping

import trio

from dspex.providers.connections import Connection, Incoming, Outgoing
from dspex.providers.exchange import ExchangeError, HeaderList, OversizeError, Reply
from dspex.providers.origins import Origin
from dspex.providers.transport_errors import CORE_ERRORS, describe


class Lease:
    """A connection that carries one reply; it goes back to its origin at the end."""

    def __init__(
        self,
        limit: trio.CapacityLimiter,
        origin: Origin,
        connection: Connection,
        outgoing: Outgoing,
        incoming: Incoming,
    ) -> None:
        self._limit = limit
        self._origin = origin
        self._connection = connection
        self._outgoing = outgoing
        self._incoming = incoming
        self._is_whole = False
        self._ended = False

    @property
    def status(self) -> int:
        """The status."""
        return self._incoming.status

    @property
    def headers(self) -> Mapping[str, str]:
        """The headers, with lower-case names."""
        return Reply(self.status, self.raw_headers, b"").headers

    @property
    def raw_headers(self) -> HeaderList:
        """The headers as they came."""
        return self._incoming.headers

    @property
    def http_version(self) -> bytes:
        """The protocol, such as b"HTTP/2"."""
        return self._incoming.http_version

    async def read(self, limit: int) -> bytes:
        """Give the rest of the body, as it was sent, and end.

        Raises:
            ExchangeError: the connection broke.
            OversizeError: it is longer than `limit` bytes.
        """
        try:
            return await self.read_raw(limit)
        except CORE_ERRORS as error:
            problem = describe(error)
        raise ExchangeError(problem)

    async def next_chunk(self) -> bytes:
        """Give the next part of the body, as it was sent; b"" at its end.

        Raises:
            ExchangeError: the connection broke.
        """
        try:
            return await self.next_raw()
        except CORE_ERRORS as error:
            problem = describe(error)
        raise ExchangeError(problem)

    async def read_raw(self, limit: int) -> bytes:
        """Do what `read` does, with httpcore's own errors."""
        parts: list[bytes] = []
        size = 0
        try:
            while chunk := await self._incoming.next_chunk():
                size += len(chunk)
                if size > limit:
                    raise OversizeError
                parts.append(chunk)
            self._is_whole = True
        finally:
            await self.end()
        return parts[0] if len(parts) == 1 else b"".join(parts)

    async def next_raw(self) -> bytes:
        """Do what `next_chunk` does, with httpcore's own errors."""
        if self._is_whole:
            return b""
        chunk = await self._incoming.next_chunk()
        self._is_whole = not chunk
        return chunk

    async def end(self) -> None:
        """Give the connection back; close it first if there is more to read."""
        if self._ended:
            return
        self._ended = True
        try:
            if not self._is_whole:
                with trio.CancelScope(shield=True):
                    await self._incoming.end(is_whole=False)
            elif await self._incoming.end(is_whole=True):
                await self._origin.give_back(self._connection)
        finally:
            self._limit.release_on_behalf_of(self._outgoing)
