"""The one interface between a module and a model."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from dspex.providers.messages import Message, Request, Response


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a model can do; asking for more is an error before anything is sent.

    `json_schema`: it writes JSON that follows a schema. `tools`: it calls tools.
    `images` and `files`: it reads them. `seed`: it honours one. `max_n`: how many
    choices one request may ask for.
    """

    json_schema: bool = True
    tools: bool = True
    images: bool = False
    files: bool = False
    streaming: bool = False
    seed: bool = True
    max_n: int = 1


class LM(Protocol):
    """A model that answers requests; every provider's client is one."""

    @property
    def name(self) -> str:
        """Provider and model, such as "openai:gpt-4o-mini"; stable over runs."""
        ...

    @property
    def capabilities(self) -> Capabilities:
        """What the model can do."""
        ...

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
        ...
