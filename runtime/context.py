"""What a message carries beside its content: the deadline and the baggage.

Under trio an actor does not see its sender's context variables, so what must
travel (run and trace ids, the caller's deadline) travels in the envelope.
"""

from collections.abc import Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from types import MappingProxyType


@dataclass(frozen=True, slots=True)
class MessageContext:
    """The deadline on trio's clock, and small facts such as a run id."""

    deadline: float | None = None
    baggage: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))


current_context: ContextVar[MessageContext | None] = ContextVar(
    "dspex_message_context", default=None
)
