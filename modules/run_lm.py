"""RunLM and RunEffects: a model and tools as the step of a run sees them."""

from collections.abc import Awaitable, Callable, Sequence
from functools import cache, partial
from typing import Any, Final, Protocol, TypeVar, cast

from pydantic_core import to_jsonable_python

from dspex.modules.replayed import can_stream
from dspex.modules.run_context import RUN_PREFIX
from dspex.providers.lm import LM, Wrapper, models_within
from dspex.providers.messages import Message, Request, Response, Usage
from dspex.providers.prices import response_cost
from dspex.providers.streams import StreamingLM, TextDelta
from dspex.runtime.engine import Codec, Effects

T = TypeVar("T")

TOOL_PREFIX: Final = "tool "
"""What the fingerprint of a tool call begins with."""


@cache
def model_call(model: str) -> Codec[Response]:
    """Give what writes down and reads again the answers of the model of that name."""
    return Codec(
        "model",
        Response.to_json,
        Response.from_json,
        lambda got: got.usage.to_json(),
        partial(response_cost, model),
    )


# What a tool call gives: whether it failed, and what the model is told.
TOOL_CALL: Final[Codec[Any]] = Codec(
    "tool", lambda result: to_jsonable_python(list(result), fallback=str), tuple
)


# What `run_context` gives: JSON already.
_ASKED: Final[Codec[Any]] = Codec("context", lambda value: value, lambda value: value)


def model_of(fingerprint: str) -> str:
    """Give the name of the model that a call with this fingerprint asks."""
    # A space or a colon, and a SHA-256 in hex.
    return fingerprint[:-65]


def codec_of(fingerprint: str) -> Codec[Any]:  # Any: whatever was done
    """Give what writes down and reads again the effect of a module's call."""
    if fingerprint.startswith(TOOL_PREFIX):
        return TOOL_CALL
    if fingerprint.startswith(RUN_PREFIX):
        return _ASKED
    return model_call("")


class Hearer(Protocol):
    """Hears the text of one answer while a model writes it."""

    def feed(self, text: str) -> None:
        """Hear a piece."""
        ...

    def finish(self) -> None:
        """Hear that this was all."""
        ...


class RunLM(Wrapper[LM]):
    """Passes a step's model calls through the run's effects; adds up what they took.

    A call that this run has finished before answers from there: what died between
    two dispatches of a step costs no second model call.
    """

    def __init__(self, lm: LM, effects: Effects) -> None:
        super().__init__(lm)
        self._effects = effects
        self.usage = Usage()
        self.cost: float | None = 0.0

    async def complete(
        self,
        request: Request | str | Sequence[Message],
        *,
        timeout: float | None = None,
    ) -> Response:
        """Give the model's answer, from the run's effects if it is there already.

        Raises:
            ProviderError: there is no answer.
        """
        return await self.ask(self._lm, Request.of(request), timeout=timeout)

    async def ask(
        self, lm: LM, request: Request, *, timeout: float | None = None
    ) -> Response:
        """As `complete`, of this model or of another that the step asks."""
        return await self._perform(
            lm, request, partial(lm.complete, request, timeout=timeout)
        )

    async def ask_heard(self, lm: LM, request: Request, hearer: Hearer) -> Response:
        """As `ask`; the text is heard while the model writes it, if it can be.

        An answer that the run has already, or that is under way for an earlier dispatch
        of the step, is not heard.
        """
        if not can_stream(lm):
            return await self.ask(lm, request)
        model = cast("StreamingLM", lm)
        return await self._perform(
            lm, request, partial(_stream, model, request, hearer)
        )

    async def _perform(
        self, lm: LM, request: Request, call: Callable[[], Awaitable[Response]]
    ) -> Response:
        asked = request.to_json()
        response = await self._effects.perform(
            f"{lm.name}:{request.fingerprint()}",
            call,
            codec=model_call(lm.name),
            request=lambda: asked,
        )
        self.usage += response.usage
        cost = response_cost(lm.name, response)
        known = self.cost
        self.cost = None if known is None or cost is None else known + cost
        return response


async def _stream(lm: StreamingLM, request: Request, hearer: Hearer) -> Response:
    async with lm.stream(request) as deltas:
        async for delta in deltas:
            if isinstance(delta, TextDelta):
                hearer.feed(delta.text)
        response = deltas.response
    hearer.finish()
    return response


def is_kept(lm: LM) -> bool:
    """Whether the answers of a model are kept by its run as it gives them."""
    if isinstance(lm, RunLM):
        return True
    return any(is_kept(it) for it in models_within(lm))


class RunEffects:
    """Passes the calls of a step's module through the run's effects.

    Calls of the step's own model, `lm`, go there by themselves.
    """

    def __init__(self, effects: Effects, lm: RunLM) -> None:
        self.texts = effects.texts
        self._effects = effects
        self._lm = lm

    async def complete(self, lm: LM, request: Request) -> Response:
        """Ask another model than the step's, as `RunLM.complete` does.

        Raises:
            ProviderError: there is no answer.
        """
        return await self._lm.ask(lm, request)

    async def complete_heard(
        self, lm: LM, request: Request, hearer: Hearer
    ) -> Response:
        """Ask the step's model or another, its text heard while it is written.

        Raises:
            ProviderError: there is no answer.
        """
        (model,) = lm.inner if isinstance(lm, RunLM) else (lm,)
        return await self._lm.ask_heard(model, request, hearer)

    async def perform(self, fingerprint: str, call: Callable[[], Awaitable[T]]) -> T:
        """Make a tool call, unless this run has made it already; give its result.

        The same for what is asked through `run_context`.
        """
        codec = codec_of(fingerprint)
        if codec.kind == "model":
            return await call()
        return await self._effects.perform(fingerprint, call, codec=codec)
