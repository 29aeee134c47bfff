"""An ordered list of models: the next one answers when one cannot."""

from collections.abc import AsyncGenerator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager

import trio

from dspex.providers.errors import (
    AllModelsFailedError,
    InvalidRequestError,
    ProviderError,
)
from dspex.providers.lm import Capabilities
from dspex.providers.messages import Message, Request, Response
from dspex.providers.streams import ResponseStream, StreamingLM
from dspex.runtime.log import get_logger

_log = get_logger()


class Fallback:
    """Sends the same request to each model in turn until one answers.

    `capabilities` are those that all of them have, so any may answer. Of the time a
    call has, a model gets an equal share of what is left; without a `timeout` each
    has its client's own. A request that is wrong is not tried elsewhere.
    """

    def __init__(self, lms: Sequence[StreamingLM]) -> None:
        if not lms:
            raise InvalidRequestError("lms", lms, "is empty")
        self._lms = tuple(lms)

    @property
    def name(self) -> str:
        """The models' names in order, such as "openai:a|anthropic:b"."""
        return "|".join(lm.name for lm in self._lms)

    @property
    def inner(self) -> tuple[StreamingLM, ...]:
        """The models that it stands before."""
        return self._lms

    @property
    def capabilities(self) -> Capabilities:
        """What every one of the models can do."""
        every = [lm.capabilities for lm in self._lms]
        return Capabilities(
            json_schema=all(one.json_schema for one in every),
            tools=all(one.tools for one in every),
            images=all(one.images for one in every),
            files=all(one.files for one in every),
            streaming=all(one.streaming for one in every),
            seed=all(one.seed for one in every),
            max_n=min(one.max_n for one in every),
        )

    async def complete(
        self,
        request: Request | str | Sequence[Message],
        *,
        timeout: float | None = None,
    ) -> Response:
        """Send one request and give the first answer.

        Raises:
            AllModelsFailedError: there is none; it holds every model's reason.
            InvalidRequestError: the request is wrong for any model.
        """
        request = Request.of(request)
        shares = _Shares(timeout, len(self._lms))
        errors: list[ProviderError] = []
        for lm in self._lms:
            try:
                return await lm.complete(request, timeout=shares.next())
            except InvalidRequestError:
                raise
            except ProviderError as error:
                errors.append(error)
                _log.warning("model_fell_back", model=lm.name, reason=str(error))
        raise AllModelsFailedError(errors)

    @asynccontextmanager
    async def stream(
        self,
        request: Request | str | Sequence[Message],
        *,
        timeout: float | None = None,
    ) -> AsyncGenerator[ResponseStream]:
        """Send one request and give the stream of the first model that begins.

        Raises:
            AllModelsFailedError: none did; it holds every model's reason.
            InvalidRequestError: the request is wrong for any model.
        """
        request = Request.of(request)
        shares = _Shares(timeout, len(self._lms))
        errors: list[ProviderError] = []
        async with AsyncExitStack() as exits:
            stream = None
            for lm in self._lms:
                try:
                    stream = await exits.enter_async_context(
                        lm.stream(request, timeout=shares.next())
                    )
                    break
                except InvalidRequestError:
                    raise
                except ProviderError as error:
                    errors.append(error)
                    _log.warning("model_fell_back", model=lm.name, reason=str(error))
            if stream is None:
                raise AllModelsFailedError(errors)
            yield stream


class _Shares:
    """Divides the time that is left among the models that are left."""

    def __init__(self, timeout: float | None, models: int) -> None:
        self._deadline = None if timeout is None else trio.current_time() + timeout
        self._models = models

    def next(self) -> float | None:
        """Give the next model's seconds; None: as many as it likes."""
        models, self._models = self._models, self._models - 1
        if self._deadline is None:
            return None
        return max(self._deadline - trio.current_time(), 0.0) / models
