"""RunLM: a model as the step of a run sees it."""

from collections.abc import Sequence
from functools import partial
from typing import Final

from dspex.providers.lm import LM, Capabilities
from dspex.providers.messages import Message, Request, Response, Usage
from dspex.runtime.engine import Codec, Effects

_MODEL_CALL: Final = Codec(
    "model", Response.to_json, Response.from_json, lambda got: got.usage.to_json()
)


class RunLM:
    """Passes a step's model calls through the run's effects, and adds up their usage.

    A call that this run has finished before answers from there: what died between
    two dispatches of a step costs no second model call.
    """

    def __init__(self, lm: LM, effects: Effects) -> None:
        self._lm = lm
        self._effects = effects
        self.usage = Usage()

    @property
    def name(self) -> str:
        """The name of the model itself."""
        return self._lm.name

    @property
    def capabilities(self) -> Capabilities:
        """What the model itself can do."""
        return self._lm.capabilities

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
        request = Request.of(request)
        response = await self._effects.perform(
            f"{self.name}:{request.fingerprint()}",
            partial(self._lm.complete, request, timeout=timeout),
            codec=_MODEL_CALL,
            request=request.to_json,
        )
        self.usage += response.usage
        return response
