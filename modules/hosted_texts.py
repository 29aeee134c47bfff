"""What a hosted step writes: its model calls in pieces there, its fields in return."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

from dspex.modules.run_lm import RunLM
from dspex.modules.streaming import JSONSplitter
from dspex.providers.messages import Request
from dspex.runtime.engine import StepText

JSONObject: TypeAlias = dict[str, Any]  # Any: JSON

_Key: TypeAlias = tuple[str, str]
"""A predictor and one of its fields."""


class StreamedCalls:
    """Makes the model calls of a hosted step; dspy hears each while it is written.

    An answer that the run has already dspy hears at once.
    """

    def __init__(self, lm: RunLM) -> None:
        self._lm = lm

    async def __call__(self, request: JSONObject) -> JSONObject:
        """Ask the model."""
        return (await self._lm.complete(Request.from_json(request))).to_json()

    async def stream(
        self, request: JSONObject, tell: Callable[[str], None]
    ) -> JSONObject:
        """Ask the model; `tell` hears the pieces of its text."""
        (model,) = self._lm.inner
        pieces = _Pieces(tell)
        try:
            asked = Request.from_json(request)
            return (await self._lm.ask_heard(model, asked, pieces)).to_json()
        finally:
            # The call may go on for the next dispatch, and the process may be gone.
            pieces.tell = None


@dataclass(slots=True)
class _Pieces:
    tell: Callable[[str], None] | None

    def feed(self, text: str) -> None:
        """Hear a piece."""
        if self.tell is not None:
            self.tell(text)

    def finish(self) -> None:
        """Hear that this was all."""


@dataclass(slots=True)
class _Written:
    """A field that a predictor writes; `splitter` reads it where it is JSON."""

    source: int
    splitter: JSONSplitter | None
    is_last: bool = False


class HostedTexts:
    """Takes what dspy's listeners tell of a run of a hosted step.

    With dspy's JSON adapter they tell the text of JSON, quotes and escapes included.
    """

    def __init__(self, texts: StepText, *, is_json: bool) -> None:
        self._texts = texts
        self._is_json = is_json
        self._written: dict[_Key, _Written] = {}

    async def hear(self, event: JSONObject) -> None:
        """Hear a progress event; it does not wait."""
        predictor, name = event["predictor"], event["field"]
        if name not in self._texts.fields:
            return
        written = self._written.get((predictor, name))
        if written is None or written.is_last:
            written = self._open(predictor, name)
        written.is_last = event["is_last"]
        text: str = event["text"]
        if written.splitter is not None:
            text = "".join(it.text for it in written.splitter.feed(text))
        if text:
            self._texts.add(written.source, name, text)

    def _open(self, predictor: str, name: str) -> _Written:
        if (predictor, name) in self._written:
            # Another call: it writes the other fields, too.
            for key in [it for it in self._written if it[0] == predictor]:
                del self._written[key]
        splitter: JSONSplitter | None = None
        if self._is_json:
            splitter = JSONSplitter((name,))
            splitter.feed(f'{{"{name}":')
        written = _Written(self._texts.open(), splitter)
        self._written[predictor, name] = written
        return written
