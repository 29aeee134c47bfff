"""RunTexts: what the steps of a run write, for those who follow it while they do.

The text so far is kept once for a run; each follower knows how much of it it was given.
So a slow one gets the same text in fewer pieces, and nothing waits for it. Texts are in
no journal, and take no place among the events that are kept.
"""

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from io import StringIO
from typing import Any, Final, NamedTuple, Protocol, TypeAlias

# Whatever they are, in a StringIO.
_CHARACTER_BYTES: Final = 4

Place: TypeAlias = tuple[str, int | None]
"""A step, and the item of it if it maps."""


@dataclass(slots=True)
class _Field:
    source: int
    text: StringIO = field(default_factory=StringIO)


class Told(Protocol):
    """The run that the texts are of."""

    @property
    def last_seq(self) -> int:
        """The number of its last event."""
        ...

    def wake(self) -> None:
        """Wake who follows it."""
        ...


class RunTexts:
    """What the steps of one run have written; without `is_kept`, until its end."""

    def __init__(self, run: Told, *, is_kept: bool) -> None:
        self.is_kept = is_kept
        self.changes = 0
        self._run = run
        # Those that were written last come last.
        self._places: OrderedDict[Place, PlaceText] = OrderedDict()

    @property
    def size_bytes(self) -> int:
        """About how many bytes they take."""
        return sum(it.size_bytes for it in self._places.values())

    def step(self, place: Place, fields: Sequence[str]) -> "StepTexts":
        """Give what hears a dispatch of a step; all write the text of one place."""
        found = self._places.get(place)
        if found is None:
            found = self._places[place] = PlaceText(place, self)
            self._places.move_to_end(place, last=False)  # it has written nothing
        return StepTexts(found, fields)

    def changed(self, text: "PlaceText") -> None:
        """Take note that a place has more text."""
        self.changes += 1
        text.change, text.after = self.changes, self._run.last_seq
        self._places.move_to_end(text.place)
        self._run.wake()

    def since(self, change: int) -> "list[PlaceText]":
        """Give the places that were written after a change, in its order."""
        found: list[PlaceText] = []
        for text in reversed(self._places.values()):
            if text.change <= change:
                break
            found.append(text)
        return found[::-1]


class PlaceText:
    """What a step, or an item of it, has written: its fields, by source.

    `attempt` is how often its text was begun. `after` is the number of the event that
    came before the last of its text.
    """

    __slots__ = (
        "_oldest",
        "_sources",
        "_texts",
        "after",
        "attempt",
        "change",
        "fields",
        "is_over",
        "place",
    )

    def __init__(self, place: Place, texts: RunTexts) -> None:
        self.place = place
        self.attempt = 1
        self.fields: dict[str, _Field] = {}
        self.change = 0
        self.after = 0
        self.is_over = False
        self._oldest = 0
        self._sources = 0
        self._texts = texts

    @property
    def size_bytes(self) -> int:
        """About how many bytes it takes."""
        return sum(_CHARACTER_BYTES * it.text.seek(0, 2) for it in self.fields.values())

    def open(self) -> int:
        """Give the number of a new source."""
        self._sources += 1
        return self._sources

    def add(self, source: int, field: str, text: str) -> None:
        """Add text; the first of a newer source for the same field begins anew."""
        found = self.fields.get(field)
        if found is None or found.source < source:
            if found is not None:
                self.fields.clear()
                self.attempt += 1
                self._oldest = source
            elif source < self._oldest:
                return
            found = self.fields[field] = _Field(source)
        elif source < found.source:
            return
        found.text.seek(0, 2)
        found.text.write(_sendable(text))
        self.is_over = False
        self._texts.changed(self)

    def settle(self, outputs: Mapping[str, str]) -> None:
        """Take the outputs themselves, where they are not what was written."""
        wrong = [
            name
            for name, text in outputs.items()
            if name not in self.fields
            or self._text(name).strip() != _sendable(text).strip()
        ]
        if any(name in self.fields for name in wrong):
            wrong = list(outputs)
        source = self.open()
        for name in wrong:
            self.add(source, name, outputs[name])
        self.is_over = True

    def _text(self, name: str) -> str:
        return self.fields[name].text.getvalue()


def _sendable(text: str) -> str:
    """Give the text without halves of surrogate pairs, which nobody could be sent."""
    if text.isascii():
        return text
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


class StepTexts:
    """The text of one dispatch of a step, as its backend tells it."""

    __slots__ = ("fields", "place")

    def __init__(self, place: PlaceText, fields: Sequence[str]) -> None:
        self.place = place
        self.fields = fields

    def open(self) -> int:
        """Give the number of a new source."""
        return self.place.open()

    def add(self, source: int, field: str, text: str) -> None:
        """Hear more text of a field."""
        self.place.add(source, field, text)

    def close(self) -> None:
        """Hear that the dispatch has failed."""
        self.place.is_over = True

    def settle(self, outputs: Mapping[str, Any]) -> None:  # Any: as declared
        """Hear what the step gave in the end."""
        texts = {name: outputs.get(name) for name in self.fields}
        self.place.settle(
            {name: text for name, text in texts.items() if isinstance(text, str)}
        )


class Piece(NamedTuple):
    """Text that a follower was not given yet; `after` is the event it comes after."""

    after: int
    facts: dict[str, Any]  # Any: JSON


class TextCursor:
    """How much one follower was given of the texts of a run."""

    __slots__ = ("_change", "_given", "texts")

    def __init__(self, texts: RunTexts) -> None:
        self.texts = texts
        self._change = 0
        self._given: dict[Place, tuple[int, dict[str, int]]] = {}

    def take(self, *, after: int) -> list[Piece]:
        """Give what there is now, in order; of a new place only what is after `after`.

        Whoever has read the event `after` has read the text before it.
        """
        found: list[Piece] = []
        for text in self.texts.since(self._change):
            known = self._given.get(text.place)
            if known is None and text.after < after:
                continue
            if known is None or known[0] != text.attempt:
                known = self._given[text.place] = (text.attempt, {})
            found += _pieces(text, known[1])
            if text.is_over:
                del self._given[text.place]
        self._change = self.texts.changes
        return found


def _pieces(text: PlaceText, given: dict[str, int]) -> list[Piece]:
    step, item = text.place
    facts: dict[str, Any] = {"step": step}  # Any: JSON
    if item is not None:
        facts["item"] = item
    found: list[Piece] = []
    for name, written in text.fields.items():
        offset = given.get(name, 0)
        written.text.seek(offset)
        more = written.text.read()
        if more:
            given[name] = offset + len(more)
            facts |= {"field": name, "text": more, "offset": offset}
            found.append(Piece(text.after, {**facts, "attempt": text.attempt}))
    return found
