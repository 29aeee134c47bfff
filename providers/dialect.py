"""Dialect: all that a new provider has to write."""

from typing import Protocol

from pydantic import SecretStr

from dspex.providers.messages import Request
from dspex.providers.streams import Decoded, StreamDecoder


class Dialect(Protocol):
    """How one provider's API writes a request and reads a reply."""

    @property
    def provider(self) -> str:
        """The provider's name in errors and logs."""
        ...

    @property
    def path(self) -> str:
        """Where requests go, below the base URL."""
        ...

    def headers(self, key: SecretStr) -> dict[str, str]:
        """Give the headers that authorize a request."""
        ...

    def encode(self, model: str, request: Request, *, stream: bool) -> bytes:
        """Write the body.

        Raises:
            UnsupportedError: the API has no way to say it.
        """
        ...

    def decode(self, body: bytes, request: Request) -> Decoded:
        """Read the body of a good reply to `request`.

        Raises:
            msgspec.ValidationError: it is not what the API promises.
        """
        ...

    def stream_decoder(self, request: Request) -> StreamDecoder:
        """Give a decoder for the streamed reply to `request`."""
        ...
