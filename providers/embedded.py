"""The client of the embedded model; `embedded_server` has the process it talks to.

It asks for the server by name at each attempt, so it finds the one that its supervisor
started last.
"""

from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from types import TracebackType
from typing import Final, Self, TypeVar

import trio

from dspex.providers.embedded_server import MODEL_NAME, EmbeddedServer, Endpoint
from dspex.providers.errors import (
    Attempt,
    ModelUnavailableError,
    ProviderTimeoutError,
)
from dspex.providers.http_model import HTTPModel
from dspex.providers.lm import Capabilities, check_supported
from dspex.providers.messages import Message, Request, Response
from dspex.providers.openai import ChatCompletions
from dspex.providers.retries import NO_RETRIES, RetryPolicy, with_retries
from dspex.providers.streams import ResponseStream
from dspex.runtime import ActorRef, CallError, NameWaitTimeoutError, Registry

SERVER_NAME: Final = "embedded"
"""The name under which the server is registered, unless another is given."""

DEFAULT_TIMEOUT: Final = 120.0
DEFAULT_MAX_TOKENS: Final = 256
CAPABILITIES: Final = Capabilities(tools=False, streaming=True, max_n=4)

T = TypeVar("T")

_END_SECONDS = 1.0


class Embedded:
    """Client of the embedded model, which it finds by name at each attempt.

    While the server is down or being restarted a call waits, up to its `timeout` in
    seconds. A request without `max_tokens` gets `default_max_tokens`, for this model
    seldom finds an end by itself; strings in an output schema need a maxLength for
    the same reason.
    """

    def __init__(
        self,
        registry: Registry,
        *,
        server: str = SERVER_NAME,
        timeout: float = DEFAULT_TIMEOUT,
        default_max_tokens: int = DEFAULT_MAX_TOKENS,
        retries: RetryPolicy | None = None,
    ) -> None:
        self._registry = registry
        self._server = server
        self._timeout = timeout
        self._default_max_tokens = default_max_tokens
        self._retries = retries or RetryPolicy(
            attempts=10, first_wait=0.05, longest_wait=1.0
        )
        self._connected: tuple[Endpoint, HTTPModel] | None = None

    @property
    def name(self) -> str:
        """Provider and model: "embedded:smollm2-135m"."""
        return f"embedded:{MODEL_NAME}"

    @property
    def capabilities(self) -> Capabilities:
        """What the model can do; it ignores tools, so they are refused."""
        return CAPABILITIES

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
            ModelUnavailableError: the server is down and did not come back.
            ProviderError: any other reason why there is no answer.
        """
        asked = self._checked(request)
        started = trio.current_time()

        attempts = 0

        async def attempt(deadline: float) -> Response:
            nonlocal attempts
            attempts += 1
            async with self._server_until(deadline) as model:
                return await model.complete(asked, timeout=_left(deadline))

        response = await self._tried(attempt, timeout)
        seconds = trio.current_time() - started
        return replace(response, seconds=seconds, attempts=attempts)

    @asynccontextmanager
    async def stream(
        self,
        request: Request | str | Sequence[Message],
        *,
        timeout: float | None = None,
    ) -> AsyncGenerator[ResponseStream]:
        """Send one request and give the stream of its answer; see `StreamingLM`.

        Raises:
            ModelUnavailableError: the server is down and did not come back.
            ProviderError: any other reason why there is no answer.
        """
        asked = self._checked(request)

        async def attempt(deadline: float) -> tuple[ResponseStream, AsyncExitStack]:
            async with AsyncExitStack() as exits:
                model = await exits.enter_async_context(self._server_until(deadline))
                stream = await exits.enter_async_context(
                    model.stream(asked, timeout=_left(deadline))
                )
                return stream, exits.pop_all()

        stream, exits = await self._tried(attempt, timeout)
        async with exits:
            yield stream

    async def aclose(self) -> None:
        """Close the connections; the server goes on."""
        connected, self._connected = self._connected, None
        if connected is not None:
            await connected[1].aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()

    def _checked(self, request: Request | str | Sequence[Message]) -> Request:
        request = Request.of(request)
        check_supported(request, CAPABILITIES, provider="embedded", model=MODEL_NAME)
        if request.max_tokens is None:
            request = replace(request, max_tokens=self._default_max_tokens)
        return request

    async def _tried(
        self, attempt: Callable[[float], Awaitable[T]], timeout: float | None
    ) -> T:
        """Try on the server there is, and again on the next one, within the time."""
        seconds = self._timeout if timeout is None else timeout
        deadline = trio.current_time() + seconds

        history: list[Attempt] = []
        try:
            return await with_retries(
                lambda: attempt(deadline),
                policy=self._retries,
                deadline=deadline,
                history=history,
            )
        except ProviderTimeoutError as error:
            error.problem = f"no answer within {seconds:g} s"
            raise

    @asynccontextmanager
    async def _server_until(self, deadline: float) -> AsyncGenerator[HTTPModel]:
        """Hold the server's present incarnation for a request; wait for one."""
        left = _left(deadline)
        try:
            ref: ActorRef[EmbeddedServer] = await self._registry.wait_for(
                self._server, left
            )
            endpoint = await ref.call(EmbeddedServer.begin, timeout=_left(deadline))
        except (NameWaitTimeoutError, CallError) as error:
            raise ModelUnavailableError(
                str(error), provider="embedded", model=MODEL_NAME
            ) from error
        try:
            yield await self._client(endpoint)
        finally:
            with trio.CancelScope(shield=True) as scope:
                scope.deadline = trio.current_time() + _END_SECONDS
                await ref.cast(EmbeddedServer.end)

    async def _client(self, endpoint: Endpoint) -> HTTPModel:
        old = self._connected
        if old is not None and old[0] == endpoint:
            return old[1]
        model = HTTPModel(
            ChatCompletions(provider="embedded"),
            MODEL_NAME,
            base_url=f"{endpoint.url}/v1",
            key=endpoint.key,
            timeout=self._timeout,
            retries=NO_RETRIES,
            capabilities=CAPABILITIES,
            trust_env=False,  # a proxy has no business on the loopback
        )
        self._connected = (endpoint, model)
        if old is not None:
            await old[1].aclose()
        return model


def _left(deadline: float) -> float:
    return max(deadline - trio.current_time(), 0.0)
