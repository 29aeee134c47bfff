"""Sending by a client of httpx that the caller made."""

from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import asynccontextmanager

import httpx

from dspex.providers.exchange import ExchangeError, HeaderList, OversizeError, Reply
from dspex.providers.origins import CONNECT_TIMEOUT

# The deadline of the whole call bounds the reading.
_TIMEOUT = httpx.Timeout(None, connect=CONNECT_TIMEOUT)


class HTTPXSender:
    """Sends by `client`, with its proxies, hooks and limits."""

    def __init__(self, client: httpx.AsyncClient) -> None:
        self._client = client

    async def post(
        self, url: str, *, headers: HeaderList, body: bytes, limit: int
    ) -> Reply:
        """Send, and give the reply with its content-encoding still on.

        Raises:
            ExchangeError: there is none.
            OversizeError: its body is longer than `limit` bytes.
        """
        async with self.stream(url, headers=headers, body=body) as reply:
            return Reply(reply.status, reply.raw_headers, await reply.read(limit))

    @asynccontextmanager
    async def stream(
        self, url: str, *, headers: HeaderList, body: bytes
    ) -> AsyncGenerator["HTTPXReply"]:
        """Send, and give the reply once its head is there; it ends with the block.

        Raises:
            ExchangeError: there is none.
        """
        request = self._client.build_request(
            "POST", url, content=body, headers=list(headers), timeout=_TIMEOUT
        )
        response, problem = None, ""
        try:
            response = await self._client.send(request, stream=True)
        except httpx.TransportError as error:
            problem = _describe(error)
        if response is None:
            raise ExchangeError(problem)
        try:
            yield HTTPXReply(response)
        finally:
            await response.aclose()

    async def aclose(self) -> None:
        """Close the client."""
        await self._client.aclose()


class HTTPXReply:
    """A reply of httpx whose body is still coming."""

    def __init__(self, response: httpx.Response) -> None:
        self.status = response.status_code
        self.raw_headers: HeaderList = response.headers.raw
        self._chunks: AsyncIterator[bytes] = response.aiter_raw()

    @property
    def headers(self) -> Mapping[str, str]:
        """The headers, with lower-case names."""
        return Reply(self.status, self.raw_headers, b"").headers

    async def next_chunk(self) -> bytes:
        """Give the next part of the body, as it was sent; b"" at its end.

        Raises:
            ExchangeError: the connection broke.
        """
        try:
            async for chunk in self._chunks:
                if chunk:
                    return chunk
        except httpx.TransportError as error:
            problem = _describe(error)
        else:
            return b""
        raise ExchangeError(problem)

    async def read(self, limit: int) -> bytes:
        """Give the rest of the body, as it was sent.

        Raises:
            ExchangeError: the connection broke.
            OversizeError: it is longer than `limit` bytes.
        """
        body = bytearray()
        while chunk := await self.next_chunk():
            body += chunk
            if len(body) > limit:
                raise OversizeError
        return bytes(body)


def _describe(error: httpx.TransportError) -> str:
    kinds = (httpx.ConnectError, httpx.ConnectTimeout)
    what = "could not connect" if isinstance(error, kinds) else "the connection broke"
    return f"{what} ({str(error) or type(error).__name__})"
