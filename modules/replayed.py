"""A model whose first answer is known already: it came as a stream."""

from collections.abc import Sequence

from dspex.providers.lm import LM, Wrapper
from dspex.providers.messages import Message, Request, Response


class Replayed(Wrapper[LM]):
    """Gives a response that is there for the first request, then asks the model."""

    def __init__(self, lm: LM, response: Response) -> None:
        super().__init__(lm)
        self._response: Response | None = response

    async def complete(
        self,
        request: Request | str | Sequence[Message],
        *,
        timeout: float | None = None,
    ) -> Response:
        """Give the known response once; further requests go to the model."""
        response, self._response = self._response, None
        if response is not None:
            return response
        return await self._lm.complete(request, timeout=timeout)


def can_stream(lm: LM) -> bool:
    """Whether the model gives its answers as streams."""
    return lm.capabilities.streaming and hasattr(lm, "stream")
