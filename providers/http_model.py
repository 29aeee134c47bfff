"""A model behind an HTTP API: what all such providers share.

A provider adds a `Dialect`, which turns a request into a body and a body into a
response; connections, deadline, retries and errors are here.
"""

from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Protocol, Self
from urllib.parse import urlsplit

import httpx
import msgspec
import trio
from pydantic import SecretStr

from dspex.providers.errors import (
    Attempt,
    ConfigurationError,
    ConnectionFailedError,
    MalformedResponseError,
    ProviderTimeoutError,
)
from dspex.providers.keys import redact_bytes
from dspex.providers.lm import Capabilities, check_supported
from dspex.providers.messages import Choice, Message, Request, Response, Usage
from dspex.providers.replies import decompressed, excerpt, status_error
from dspex.providers.retries import RetryPolicy, with_retries

DEFAULT_TIMEOUT = 60.0
CONNECT_TIMEOUT = 10.0
MAX_BODY_BYTES = 64 * 1024 * 1024


class Decoded(msgspec.Struct, frozen=True):
    """What a dialect reads out of a body."""

    choices: tuple[Choice, ...]
    usage: Usage
    model: str
    id: str | None


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

    def headers(self, key: SecretStr) -> Mapping[str, str]:
        """Give the headers that authorize a request."""
        ...

    def encode(self, model: str, request: Request) -> bytes:
        """Write the body.

        Raises:
            UnsupportedError: the API has no way to say it.
        """
        ...

    def decode(self, body: bytes) -> Decoded:
        """Read the body of a good reply.

        Raises:
            msgspec.ValidationError: it is not what the API promises.
        """
        ...


class HTTPModel:
    """A client of one model: `async with` closes its connections, but may be left out.

    Usable under plain trio, by any number of tasks of one `trio.run`.
    """

    def __init__(
        self,
        dialect: Dialect,
        model: str,
        *,
        base_url: str,
        key: SecretStr,
        timeout: float,
        retries: RetryPolicy,
        capabilities: Capabilities,
        client: httpx.AsyncClient | None = None,
    ) -> None:
        self._dialect = dialect
        self._model = model
        self._timeout = timeout
        self._retries = retries
        self._capabilities = capabilities
        self._key = key
        self._url = checked_url(base_url, dialect.provider) + dialect.path
        self._client = client
        self._owns_client = client is None

    @property
    def name(self) -> str:
        """Provider and model, such as "openai:gpt-4o-mini"."""
        return f"{self._dialect.provider}:{self._model}"

    @property
    def capabilities(self) -> Capabilities:
        """What the model can do."""
        return self._capabilities

    async def complete(
        self,
        request: Request | str | Sequence[Message],
        *,
        timeout: float | None = None,
    ) -> Response:
        """Send one request and give the answer.

        `timeout` is the total of all attempts and waits, in seconds; None means the
        client's own.

        Raises:
            ProviderError: there is no answer; its subclass and attributes say why.
        """
        request = Request.of(request)
        provider = self._dialect.provider
        check_supported(
            request, self._capabilities, provider=provider, model=self._model
        )
        body = self._dialect.encode(self._model, request)
        seconds = self._timeout if timeout is None else timeout
        started = trio.current_time()
        history: list[Attempt] = []
        with trio.move_on_at(started + seconds):
            decoded = await with_retries(
                lambda: self._attempt(body),
                policy=self._retries,
                deadline=started + seconds,
                history=history,
            )
            return Response(
                decoded.choices,
                decoded.usage,
                decoded.model,
                decoded.id,
                trio.current_time() - started,
            )
        spent = sum(attempt.seconds + attempt.waited for attempt in history)
        history.append(Attempt(spent, seconds - spent, "deadline"))
        error = ProviderTimeoutError(
            f"no answer within {seconds:g} s", provider=provider, model=self._model
        )
        error.attempts = history
        raise error

    async def aclose(self) -> None:
        """Close the connections; the next call opens new ones."""
        client, self._client = self._client, None
        if client is not None and self._owns_client:
            await client.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._model!r} at {self._url}>"

    async def _attempt(self, body: bytes) -> Decoded:
        status, headers, content = await self._post(body)
        problem = ""
        if 200 <= status < 300:
            try:
                return self._dialect.decode(content)
            except (msgspec.DecodeError, UnicodeDecodeError) as error:
                problem = str(error)
        # A server may echo the key; from here on nothing shows it, not even the
        # local variables of this frame.
        content = redact_bytes(content, self._key)
        if problem:
            problem = f"{problem}; the body starts {excerpt(content)!r}"
            raise self._malformed(problem, status, headers)
        raise status_error(
            status,
            headers,
            content,
            provider=self._dialect.provider,
            model=self._model,
        )

    async def _post(self, body: bytes) -> tuple[int, Mapping[str, str], bytes]:
        if self._client is None:
            self._client = httpx.AsyncClient(
                limits=httpx.Limits(max_connections=None, max_keepalive_connections=64)
            )
        try:
            async with self._client.stream(
                "POST",
                self._url,
                content=body,
                headers={
                    "content-type": "application/json",
                    "accept-encoding": "gzip, deflate",
                    **self._dialect.headers(self._key),
                },
                # The deadline around all attempts bounds the reading.
                timeout=httpx.Timeout(None, connect=CONNECT_TIMEOUT),
            ) as reply:
                content = b"".join([chunk async for chunk in reply.aiter_raw()])
        except httpx.TransportError as error:
            problem = f"{_describe(error)} at {self._url}"
        else:
            status, headers = reply.status_code, reply.headers
            try:
                content = decompressed(
                    content, headers.get("content-encoding"), limit=MAX_BODY_BYTES
                )
            except ValueError as error:
                raise self._malformed(str(error), status, headers) from None
            return status, headers, content
        # Raised here, so that the frames of the HTTP library, which hold the key,
        # are not part of its traceback.
        raise ConnectionFailedError(
            problem, provider=self._dialect.provider, model=self._model
        )

    def _malformed(
        self, problem: str, status: int, headers: Mapping[str, str]
    ) -> MalformedResponseError:
        return MalformedResponseError(
            problem,
            provider=self._dialect.provider,
            model=self._model,
            status=status,
            request_id=headers.get("x-request-id"),
        )


def checked_url(base_url: str, provider: str) -> str:
    """Give a base URL without a slash at its end.

    Raises:
        ConfigurationError: it is not an http or https URL.
    """
    try:
        url = urlsplit(base_url)
        usable = url.scheme in ("http", "https") and url.hostname and url.port != 0
    except ValueError as error:
        problem = str(error)
    else:
        if usable:
            return base_url.rstrip("/")
        problem = "it needs http:// or https:// and a host"
    raise ConfigurationError(
        f"base_url {base_url!r} is not a URL: {problem}",
        provider=provider,
        remedy="give it like https://api.openai.com/v1",
    )


def _describe(error: httpx.TransportError) -> str:
    if isinstance(error, httpx.ConnectError):
        what = "could not connect"
    elif isinstance(error, httpx.ConnectTimeout):
        what = f"could not connect within {CONNECT_TIMEOUT:g} s"
    else:
        what = "the connection broke"
    detail = str(error)
    return f"{what} ({detail})" if detail else what
