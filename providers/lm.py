"""The one interface between a module and a model."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar, cast

from dspex.providers.errors import UnsupportedError
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


def check_supported(
    request: Request, capabilities: Capabilities, *, provider: str, model: str
) -> None:
    """Pass a request that the model can serve.

    Raises:
        UnsupportedError: it asks for something the model cannot do.
    """
    kinds = {
        part.type
        for message in request.messages
        if not isinstance(message.content, str)
        for part in message.content
    }
    asked = (
        (request.output_schema is not None, capabilities.json_schema, "output_schema"),
        (bool(request.tools), capabilities.tools, "tools"),
        ("image" in kinds, capabilities.images, "images"),
        ("file" in kinds, capabilities.files, "files"),
        (request.seed is not None, capabilities.seed, "seed"),
        (request.n > 1, request.n <= capabilities.max_n, f"n = {request.n}"),
    )
    for wanted, can, what in asked:
        if wanted and not can:
            raise UnsupportedError(
                f"the request has {what}, which this model cannot do",
                provider=provider,
                model=model,
            )


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


LMT = TypeVar("LMT", bound=LM)


class Wrapper(Generic[LMT]):
    """What stands before a model and goes by its name; it adds its own `complete`."""

    def __init__(self, lm: LMT) -> None:
        self._lm = lm

    @property
    def name(self) -> str:
        """The model's name."""
        return self._lm.name

    @property
    def inner(self) -> tuple[LMT, ...]:
        """The model that it stands before."""
        return (self._lm,)

    @property
    def capabilities(self) -> Capabilities:
        """What the model can do."""
        return self._lm.capabilities


def models_within(lm: LM) -> tuple[LM, ...]:
    """Give the models that one stands before.

    None for a class of a user's own that calls something else `inner`.
    """
    inner: object = getattr(lm, "inner", ())
    return cast("tuple[LM, ...]", inner) if isinstance(inner, tuple) else ()
