"""A model behind an HTTP API: what all such providers share.

A provider adds a `Dialect`, which turns a request into a body and a body into a
response; connections, deadline, retries, limits and errors are here.
"""

from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import (
    AsyncExitStack,
    asynccontextmanager,
)
from types import TracebackType
from typing import Final, Self
from urllib.parse import urlsplit

import httpx
import msgspec
import trio
from pydantic import SecretStr

from dspex.providers.dialect import Dialect
from dspex.providers.errors import (
    Attempt,
    ConfigurationError,
    ConnectionFailedError,
    InvalidRequestError,
    MalformedResponseError,
    ProviderError,
    ProviderTimeoutError,
    UnsupportedError,
)
from dspex.providers.exchange import (
    ExchangeError,
    OversizeError,
    Reply,
    Sender,
)
from dspex.providers.http_stream import HTTPStream
from dspex.providers.httpx_sender import HTTPXSender
from dspex.providers.keys import SecretHeaders, redact, redact_bytes, redact_headers
from dspex.providers.limiter import Limiter, estimate_tokens, told
from dspex.providers.lm import Capabilities, check_supported
from dspex.providers.messages import Message, Request, Response
from dspex.providers.replies import (
    decompressed,
    excerpt,
    request_id,
    status_error,
)
from dspex.providers.retries import RetryPolicy, with_retries
from dspex.providers.streams import (
    Decoded,
    Delta,
    ResponseStream,
)
from dspex.providers.telemetry import ModelCall
from dspex.providers.transport import Transport

DEFAULT_TIMEOUT: Final = 60.0
MAX_BODY_BYTES: Final = 64 * 1024 * 1024


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
        limiter: Limiter | None = None,
        transport: httpx.AsyncBaseTransport | None = None,
        client: httpx.AsyncClient | None = None,
        trust_env: bool = True,
    ) -> None:
        self._limiter = limiter
        self._dialect = dialect
        self._model = model
        self._timeout = timeout
        self._retries = retries
        self._capabilities = capabilities
        self._key = key
        self._url = checked_url(base_url, dialect.provider) + dialect.path
        headers = dialect.headers(key) | {"content-type": "application/json"}
        self._stream_headers = _encoded(headers | {"accept-encoding": "identity"})
        self._headers = _encoded(headers | {"accept-encoding": "gzip, deflate"})
        self._owns_sender = transport is None and client is None
        self._sender: Sender
        if client is not None:
            self._sender = HTTPXSender(client)
        elif transport is None or isinstance(transport, Transport):
            self._sender = transport or Transport(trust_env=trust_env)
        else:
            self._sender = HTTPXSender(httpx.AsyncClient(transport=transport))

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
        body = self._encode(request, stream=False)
        seconds = self._timeout if timeout is None else timeout
        started = trio.current_time()
        history: list[Attempt] = []
        with self._call(request, history) as call:
            with trio.move_on_at(started + seconds):
                decoded = await with_retries(
                    lambda: self._attempt(request, body),
                    policy=self._retries,
                    deadline=started + seconds,
                    history=history,
                )
                response = _response(decoded, started, len(history) + 1)
                call.answered(response)
                return response
            raise self._timed_out(seconds, history)

    @asynccontextmanager
    async def stream(
        self,
        request: Request | str | Sequence[Message],
        *,
        timeout: float | None = None,
    ) -> AsyncGenerator[ResponseStream]:
        """Send one request and give the stream of its answer, once it has begun.

        Until the first delta a failure is retried; leaving the block early ends the
        call. `timeout` is the total until the last delta, in seconds.

        Raises:
            ProviderError: there is no answer; its subclass and attributes say why.
        """
        request = Request.of(request)
        body = self._encode(request, stream=True)
        seconds = self._timeout if timeout is None else timeout
        started = trio.current_time()
        history: list[Attempt] = []
        opened: tuple[HTTPStream, AsyncExitStack] | None = None
        with self._call(request, history) as call:
            with trio.move_on_at(started + seconds):
                opened = await with_retries(
                    lambda: self._open_stream(request, body),
                    policy=self._retries,
                    deadline=started + seconds,
                    history=history,
                )
            if opened is None:
                raise self._timed_out(seconds, history)
            incoming, exits = opened
            call.first_chunk()
            async with exits:

                async def more() -> Sequence[Delta]:
                    deltas = await incoming.more(deadline=started + seconds)
                    if not deltas:
                        response = _response(
                            incoming.decoder.result(), started, len(history) + 1
                        )
                        stream.complete(response)
                        call.answered(response)
                    return deltas

                stream = ResponseStream(incoming.first, more)
                yield stream

    async def aclose(self) -> None:
        """Close the connections; the next call opens new ones."""
        if self._owns_sender:
            await self._sender.aclose()

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

    def _call(self, request: Request, history: list[Attempt]) -> ModelCall:
        return ModelCall(
            self._dialect.provider, self._model, self._url, request, history
        )

    def _encode(self, request: Request, *, stream: bool) -> bytes:
        if stream and not self._capabilities.streaming:
            raise UnsupportedError(
                "it cannot stream its answers",
                provider=self._dialect.provider,
                model=self._model,
                remedy="use complete()",
            )
        check_supported(
            request,
            self._capabilities,
            provider=self._dialect.provider,
            model=self._model,
        )
        try:
            return self._dialect.encode(self._model, request, stream=stream)
        except (TypeError, ValueError) as error:
            raise InvalidRequestError(
                "request", request, f"cannot be written as JSON: {error}"
            ) from None

    async def _attempt(self, request: Request, body: bytes) -> Decoded:
        if self._limiter is None:
            return self._decode(request, await self._post(body))
        async with self._limiter.permit(_estimate(request, body)) as permit:
            reply = await self._post(body)
            with told(permit, reply.headers):
                decoded = self._decode(request, reply)
            permit.settle(decoded.usage.total_tokens)
            return decoded

    async def _post(self, body: bytes) -> Reply:
        try:
            return await self._sender.post(
                self._url, headers=self._headers, body=body, limit=MAX_BODY_BYTES
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

    async def _open_stream(
        self, request: Request, body: bytes
    ) -> tuple[HTTPStream, AsyncExitStack]:
        """Send and read up to the first delta, or to the end of an empty answer."""
        problem = ""
        async with AsyncExitStack() as exits:
            permit = None
            if self._limiter is not None:
                permit = await exits.enter_async_context(
                    self._limiter.permit(_estimate(request, body))
                )
            try:
                reply = await exits.enter_async_context(
                    self._sender.stream(
                        self._url, headers=self._stream_headers, body=body
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

    def _timed_out(self, seconds: float, history: list[Attempt]) -> ProviderError:
        spent = sum(attempt.seconds + attempt.waited for attempt in history)
        history.append(Attempt(spent, seconds - spent, "deadline"))
        error = ProviderTimeoutError(
            f"no answer within {seconds:g} s",
            provider=self._dialect.provider,
            model=self._model,
        )
        error.attempts = history
        return error

    def _broken(self, problem: str) -> ConnectionFailedError:
        return ConnectionFailedError(
            f"{problem} at {self._url}",
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


def _estimate(request: Request, body: bytes) -> int:
    return estimate_tokens(body, request.max_tokens, request.n)


def _encoded(headers: Mapping[str, str]) -> SecretHeaders:
    return SecretHeaders(
        (name.encode(), value.encode()) for name, value in headers.items()
    )


def _response(decoded: Decoded, started: float, attempts: int) -> Response:
    return Response(
        decoded.choices,
        decoded.usage,
        decoded.model,
        decoded.id,
        trio.current_time() - started,
        attempts,
    )
