"""Endpoint: one model at one URL, asked once.

Bytes go out and a decoded answer comes back, or the typed error that says why not.
Deadline, retries and telemetry are the caller's, `http_model.py`.
"""

from collections.abc import AsyncGenerator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Final
from urllib.parse import urlsplit

import msgspec
from pydantic import SecretStr

from dspex.providers.dialect import Dialect
from dspex.providers.errors import (
    ConfigurationError,
    ConnectionFailedError,
    MalformedResponseError,
)
from dspex.providers.exchange import ExchangeError, OversizeError, Reply, Sender
from dspex.providers.http_stream import HTTPStream
from dspex.providers.keys import SecretHeaders, redact, redact_bytes, redact_headers
from dspex.providers.limiter import Limiter, Permit, estimate_tokens, told
from dspex.providers.messages import Request
from dspex.providers.replies import (
    decompressed,
    excerpt,
    request_id,
    status_error,
)
from dspex.providers.streams import Decoded

MAX_BODY_BYTES: Final = 64 * 1024 * 1024


class Wait:
    """What an attempt waits for, for whoever ends it."""

    __slots__ = ("is_for_limiter",)

    def __init__(self) -> None:
        self.is_for_limiter = False


class Endpoint:
    """Sends requests to a model, each within the limits of its key."""

    def __init__(
        self,
        dialect: Dialect,
        model: str,
        *,
        base_url: str,
        key: SecretStr,
        sender: Sender,
        limiter: Limiter | None,
    ) -> None:
        self.url = checked_url(base_url, dialect.provider) + dialect.path
        self.sender = sender
        self._dialect = dialect
        self._model = model
        self._key = key
        self._limiter = limiter
        headers = dialect.headers(key) | {"content-type": "application/json"}
        self._stream_headers = _encoded(headers | {"accept-encoding": "identity"})
        self._headers = _encoded(headers | {"accept-encoding": "gzip, deflate"})

    async def ask(self, request: Request, body: bytes, wait: Wait) -> Decoded:
        """Send once and give the answer.

        Raises:
            ProviderError: there is none.
        """
        if self._limiter is None:
            return self._decode(request, await self._post(body))
        async with self._permit(request, body, wait) as permit:
            reply = await self._post(body)
            with told(permit, reply.headers):
                decoded = self._decode(request, reply)
            permit.settle(decoded.usage.total_tokens)
            return decoded

    async def open_stream(
        self, request: Request, body: bytes, wait: Wait
    ) -> tuple[HTTPStream, AsyncExitStack]:
        """Send and read up to the first delta, or to the end of an empty answer.

        Raises:
            ProviderError: it did not begin.
        """
        problem = ""
        async with AsyncExitStack() as exits:
            permit = None
            if self._limiter is not None:
                permit = await exits.enter_async_context(
                    self._permit(request, body, wait)
                )
            try:
                reply = await exits.enter_async_context(
                    self.sender.stream(
                        self.url, headers=self._stream_headers, body=body
                    )
                )
                with told(permit, reply.headers):
                    if not 200 <= reply.status < 300:
                        self._decode(
                            request,
                            Reply(
                                reply.status,
                                reply.raw_headers,
                                await reply.read(MAX_BODY_BYTES),
                            ),
                        )
                    stream = HTTPStream(
                        reply,
                        self._dialect.stream_decoder(request),
                        provider=self._dialect.provider,
                        model=self._model,
                        key=self._key,
                        permit=permit,
                    )
                    await stream.begin()
                return stream, exits.pop_all()
            except ExchangeError as error:
                problem = redact(str(error), self._key)
            except OversizeError:
                problem = f"the body is over {MAX_BODY_BYTES} bytes"
        raise self._broken(problem)

    @asynccontextmanager
    async def _permit(
        self, request: Request, body: bytes, wait: Wait
    ) -> AsyncGenerator[Permit]:
        assert self._limiter is not None
        tokens = estimate_tokens(body, request.max_tokens, request.n)
        wait.is_for_limiter = True
        async with self._limiter.permit(tokens) as permit:
            wait.is_for_limiter = False
            yield permit

    async def _post(self, body: bytes) -> Reply:
        try:
            return await self.sender.post(
                self.url, headers=self._headers, body=body, limit=MAX_BODY_BYTES
            )
        except ExchangeError as error:
            problem = redact(str(error), self._key)
        except OversizeError:
            raise self._malformed(f"the body is over {MAX_BODY_BYTES} bytes") from None
        # Raised here, so that the frames below, which hold the key, are not in it.
        raise self._broken(problem)

    def _decode(self, request: Request, reply: Reply) -> Decoded:
        status, content = reply.status, reply.body
        problem = ""
        try:
            content = decompressed(
                content, reply.header(b"content-encoding"), limit=MAX_BODY_BYTES
            )
            if 200 <= status < 300:
                return self._dialect.decode(content, request)
        except (msgspec.DecodeError, ValueError) as error:
            problem = str(error)
        # A server may echo the key; from here on nothing shows it, not even the
        # local variables of this frame.
        content = redact_bytes(content, self._key)
        headers = redact_headers(reply.headers, self._key)
        del reply
        if problem:
            problem = (
                f"{redact(problem, self._key)}; the body starts {excerpt(content)!r}"
            )
            raise self._malformed(problem, status, headers)
        raise status_error(
            status,
            headers,
            content,
            provider=self._dialect.provider,
            model=self._model,
            key=self._key,
        )

    def _broken(self, problem: str) -> ConnectionFailedError:
        return ConnectionFailedError(
            f"{problem} at {self.url}",
            provider=self._dialect.provider,
            model=self._model,
        )

    def _malformed(
        self,
        problem: str,
        status: int | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> MalformedResponseError:
        return MalformedResponseError(
            problem,
            provider=self._dialect.provider,
            model=self._model,
            status=status,
            request_id=request_id(headers or {}, self._key),
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
        if "@" in url.netloc or url.query or url.fragment:
            # Not shown: this is where people put keys.
            raise ConfigurationError(
                "base_url holds a user, a query or a fragment",
                provider=provider,
                remedy="leave it out, and pass a key as api_key=",
            )
        if usable:
            return base_url.rstrip("/")
        problem = "it needs http:// or https:// and a host"
    raise ConfigurationError(
        f"base_url {base_url!r} is not a URL: {problem}",
        provider=provider,
        remedy="give it like https://api.openai.com/v1",
    )


def _encoded(headers: Mapping[str, str]) -> SecretHeaders:
    return SecretHeaders(
        (name.encode(), value.encode()) for name, value in headers.items()
    )
