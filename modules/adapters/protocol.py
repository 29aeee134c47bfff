"""What an adapter is: inputs to a request, the model's answer to outputs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

from dspex.modules.signature import Inputs, Signature
from dspex.providers.lm import Capabilities
from dspex.providers.messages import Choice, Request

# Any: a demo's values have the types of the signature's fields.
Demo: TypeAlias = Mapping[str, Any]
Outputs: TypeAlias = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Reading:
    """The outputs read from an answer; `notes` names what had to be forgiven."""

    outputs: Outputs
    notes: tuple[str, ...] = ()


class Adapter(Protocol):
    """Signature, demos and inputs to a request; the model's answer to outputs.

    Adapters do no I/O and keep nothing of a call.
    """

    @property
    def name(self) -> str:
        """How errors call it."""
        ...

    def format(
        self,
        signature: Signature,
        *,
        demos: Sequence[Demo],
        inputs: Inputs,
        capabilities: Capabilities,
    ) -> Request:
        """Give the request that asks a model of these capabilities for the outputs."""
        ...

    def parse(self, signature: Signature, choice: Choice) -> Reading:
        """Read the outputs from one answer.

        Raises:
            AdapterParseError: an output is missing or wrong.
        """
        ...

    def repair(self, request: Request, choice: Choice, problem: str) -> Request:
        """Give the request that shows the model what is wrong with its answer."""
        ...
