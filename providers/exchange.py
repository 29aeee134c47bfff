"""One request and its reply: the seam between a provider and a way to send HTTP."""

from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Protocol, TypeAlias

HeaderList: TypeAlias = Sequence[tuple[bytes, bytes]]


class ExchangeError(Exception):
    """The request was not answered: no connection, or it broke."""


class OversizeError(Exception):
    """The reply is longer than was allowed."""


class Reply:
    """A whole reply; `headers` has lower-case names and is made when asked for."""

    __slots__ = ("body", "raw_headers", "status")

    def __init__(self, status: int, raw_headers: HeaderList, body: bytes) -> None:
        self.status = status
        self.raw_headers = raw_headers
        self.body = body

    def header(self, name: bytes) -> str | None:
        """Give one header by its lower-case name."""
        for known, value in self.raw_headers:
            if known.lower() == name:
                return value.decode("latin-1")
        return None

    @property
    def headers(self) -> Mapping[str, str]:
        """The headers; of a repeated one, the last."""
        return {
            name.decode("latin-1").lower(): value.decode("latin-1")
            for name, value in self.raw_headers
        }


class ReplyStream(Protocol):
    """A reply whose head is there and whose body is still coming."""

    @property
    def status(self) -> int:
        """The status."""
        ...

    @property
    def headers(self) -> Mapping[str, str]:
        """The headers, with lower-case names."""
        ...

    @property
    def raw_headers(self) -> HeaderList:
        """The headers as they came."""
        ...

    async def next_chunk(self) -> bytes:
        """Give the next part of the body, as it was sent; b"" at its end.

        Raises:
            ExchangeError: the connection broke.
        """
        ...

    async def read(self, limit: int) -> bytes:
        """Give the rest of the body, as it was sent.

        Raises:
            ExchangeError: the connection broke.
            OversizeError: it is longer than `limit` bytes.
        """
        ...


class Sender(Protocol):
    """A way to send HTTP requests: the transport, or a client that was passed in."""

    async def post(
        self, url: str, *, headers: HeaderList, body: bytes, limit: int
    ) -> Reply:
        """Send, and give the reply with its content-encoding still on.

        Raises:
            ExchangeError: there is none.
            OversizeError: its body is longer than `limit` bytes.
        """
        ...

    def stream(
        self, url: str, *, headers: HeaderList, body: bytes
    ) -> AbstractAsyncContextManager[ReplyStream]:
        """Send, and give the reply once its head is there; it ends with the block.

        Raises:
            ExchangeError: there is none.
        """
        ...

    async def aclose(self) -> None:
        """Close all connections."""
        ...
