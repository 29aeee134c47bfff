"""A model behind an HTTP API: what all such providers share.

A provider adds a `Dialect`, which turns a request into a body and a body into a
response. One try of a call is made by its `Endpoint`; deadline, retries and telemetry
are here.
"""

from collections.abc import AsyncGenerator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from types import TracebackType
from typing import Final, Self

import httpx
import trio
from pydantic import SecretStr

from dspex.providers.dialect import Dialect
from dspex.providers.endpoint import Endpoint, Wait
from dspex.providers.errors import (
    Attempt,
    InvalidRequestError,
    ProviderError,
    ProviderTimeoutError,
    UnsupportedError,
)
from dspex.providers.exchange import Sender
from dspex.providers.http_stream import HTTPStream
from dspex.providers.httpx_sender import HTTPXSender
from dspex.providers.limiter import Limiter
from dspex.providers.lm import Capabilities, check_supported
from dspex.providers.messages import Message, Request, Response
from dspex.providers.retries import RetryPolicy, with_retries
from dspex.providers.streams import Decoded, Delta, ResponseStream
from dspex.providers.telemetry import ModelCall
from dspex.providers.transport import Transport

DEFAULT_TIMEOUT: Final = 60.0


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
        self._dialect = dialect
        self._model = model
        self._timeout = timeout
        self._retries = retries
        self._capabilities = capabilities
        self._owns_sender = transport is None and client is None
        sender: Sender
        if client is not None:
            sender = HTTPXSender(client)
        elif transport is None or isinstance(transport, Transport):
            sender = transport or Transport(trust_env=trust_env)
        else:
            sender = HTTPXSender(httpx.AsyncClient(transport=transport))
        self._endpoint = Endpoint(
            dialect, model, base_url=base_url, key=key, sender=sender, limiter=limiter
        )

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
        wait = Wait()
        with self._call(request, history) as call:
            with trio.move_on_at(started + seconds):
                decoded = await with_retries(
                    lambda: self._endpoint.ask(request, body, wait),
                    policy=self._retries,
                    deadline=started + seconds,
                    history=history,
                )
                response = _response(decoded, started, len(history) + 1)
                call.answered(response)
                return response
            raise self._timed_out(seconds, history, wait)

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
        wait = Wait()
        opened: tuple[HTTPStream, AsyncExitStack] | None = None
        with self._call(request, history) as call:
            with trio.move_on_at(started + seconds):
                opened = await with_retries(
                    lambda: self._endpoint.open_stream(request, body, wait),
                    policy=self._retries,
                    deadline=started + seconds,
                    history=history,
                )
            if opened is None:
                raise self._timed_out(seconds, history, wait)
            incoming, exits = opened
            call.first_chunk()
            async with exits:

                async def more() -> Sequence[Delta]:
                    deltas = await incoming.more(
                        deadline=started + seconds, seconds=seconds
                    )
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
            await self._endpoint.sender.aclose()

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
        return f"<{type(self).__name__} {self._model!r} at {self._endpoint.url}>"

    def _call(self, request: Request, history: list[Attempt]) -> ModelCall:
        return ModelCall(
            self._dialect.provider, self._model, self._endpoint.url, request, history
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

    def _timed_out(
        self, seconds: float, history: list[Attempt], wait: Wait
    ) -> ProviderError:
        spent = sum(attempt.seconds + attempt.waited for attempt in history)
        history.append(Attempt(spent, seconds - spent, "deadline"))
        why = ": its limiter let it wait" if wait.is_for_limiter else ""
        error = ProviderTimeoutError(
            f"no answer within {seconds:g} s{why}",
            provider=self._dialect.provider,
            model=self._model,
        )
        error.is_limited = wait.is_for_limiter
        error.attempts = history
        return error


def _response(decoded: Decoded, started: float, attempts: int) -> Response:
    return Response(
        decoded.choices,
        decoded.usage,
        decoded.model,
        decoded.id,
        trio.current_time() - started,
        attempts,
    )
