"""Debug: what `sys.trace` and `sys.statistics` keep about one actor."""

from collections.abc import Callable
from dataclasses import dataclass

from dspex.runtime.envelope import Envelope, Info, Request


@dataclass(frozen=True, slots=True)
class TracedMessage:
    """One message an actor took from its mailbox; `method` is None for an info."""

    actor: str
    method: str | None
    content: object


class Debug:
    """Counts messages and shows them to an observer, if there is one."""

    __slots__ = ("_name", "calls_and_casts", "infos", "observer", "since")

    def __init__(self, name: str, since: float) -> None:
        self._name = name
        self.since = since
        self.calls_and_casts = 0
        self.infos = 0
        self.observer: Callable[[TracedMessage], None] | None = None

    def note_in(self, envelope: Envelope) -> None:
        """Take note of a message that is about to be handled."""
        if isinstance(envelope, Request):
            self.calls_and_casts += 1
            method = getattr(envelope.method, "__name__", repr(envelope.method))
            message = TracedMessage(self._name, method, envelope.arguments)
        elif isinstance(envelope, Info):
            self.infos += 1
            message = TracedMessage(self._name, None, envelope.message)
        else:
            return
        if self.observer is not None:
            self.observer(message)
