"""Outputs while they are written: what each piece of an answer adds to which field."""

import re
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from dspex.modules.adapters.chat import ChatAdapter
from dspex.modules.adapters.json import JSONAdapter
from dspex.modules.adapters.protocol import Adapter
from dspex.modules.signature import Signature
from dspex.runtime.engine import StepText

_MARKER: Final = re.compile(r"\[\[ ## (\w+) ## \]\][ \t]*\n?")
# At the end of what came: a marker that may go on.
_BEGUN: Final = re.compile(
    r"(?:\[(?:\[(?: (?:#(?:#(?: (?:\w{1,200}(?: (?:#(?:#(?: (?:\](?:\][ \t]*)?"
    r")?)?)?)?)?)?)?)?)?)?)?)?\Z"
)
# In a JSON string: up to its end or an escape.
_PLAIN: Final = re.compile(r'[^"\\]+')
_ESCAPES: Final[Mapping[str, str]] = {
    "n": "\n",
    "t": "\t",
    "r": "\r",
    "b": "\b",
    "f": "\f",
}


@dataclass(frozen=True, slots=True)
class FieldDelta:
    """More text of an output, as the model writes it; not yet validated."""

    field: str
    text: str


class FieldSplitter(Protocol):
    """Tells which field a piece of an answer belongs to."""

    def feed(self, text: str) -> list[FieldDelta]:
        """Take a piece and give what it adds to fields."""
        ...

    def finish(self) -> list[FieldDelta]:
        """Give what was held back."""
        ...


def choose_splitter(adapter: Adapter, signature: Signature) -> FieldSplitter | None:
    """Give the splitter for what this adapter asks for; None if it has none."""
    if isinstance(adapter, ChatAdapter):
        return MarkerSplitter(signature)
    if isinstance(adapter, JSONAdapter):
        return JSONSplitter(signature.output_fields)
    return None


class FieldHearer:
    """Tells what one answer adds to the outputs of a step, while it is written."""

    def __init__(self, splitter: FieldSplitter, texts: StepText) -> None:
        self._splitter = splitter
        self._texts = texts
        self._source = texts.open()

    def feed(self, text: str) -> None:
        """Hear a piece of the answer."""
        self._tell(self._splitter.feed(text))

    def finish(self) -> None:
        """Hear that this was all."""
        self._tell(self._splitter.finish())

    def _tell(self, deltas: Sequence[FieldDelta]) -> None:
        for delta in deltas:
            if delta.field in self._texts.fields:
                self._texts.add(self._source, delta.field, delta.text)


class MarkerSplitter:
    """Splits at `[[ ## name ## ]]`; holds back what may be the start of a marker."""

    def __init__(self, signature: Signature) -> None:
        self._fields = signature.output_fields
        self._field: str | None = None
        self._held = ""
        # Line ends that are told when something follows them.
        self._ends = 0

    def feed(self, text: str) -> list[FieldDelta]:
        """Take a piece and give what it adds to fields."""
        held = self._held + text
        found: list[FieldDelta] = []
        while (match := _MARKER.search(held)) is not None:
            if match.end() == len(held) and not match[0].endswith("\n"):
                break  # its line may go on
            found += self._delta(held[: match.start()])
            held = held[match.end() :]
            self._field = match[1] if match[1] in self._fields else None
            self._ends = 0
        begun = _BEGUN.search(held)
        cut = len(held) if begun is None else begun.start()
        self._held = held[cut:]
        return found + self._delta(held[:cut])

    def finish(self) -> list[FieldDelta]:
        """Give what was held back."""
        rest = _MARKER.sub("", self._held)
        self._held = ""
        return self._delta(rest)

    def _delta(self, text: str) -> list[FieldDelta]:
        told = text.rstrip("\n")
        ends, self._ends = self._ends, len(text) - len(told)
        if not told:
            self._ends += ends
            return []
        if self._field is None:
            return []
        return [FieldDelta(self._field, "\n" * ends + told)]


class JSONSplitter:
    """Gives the text of the top-level strings of one JSON object, of these names."""

    def __init__(self, fields: Container[str]) -> None:
        self._fields = fields
        self._depth = 0
        self._in_string = False
        self._is_value = False
        self._escape = ""
        self._key = ""
        self._text: list[str] = []

    def feed(self, text: str) -> list[FieldDelta]:
        """Take a piece and give what it adds to fields."""
        found: list[FieldDelta] = []
        at = 0
        while at < len(text):
            if not self._in_string:
                self._read_structure(text[at])
            elif not self._escape and (plain := _PLAIN.match(text, at)) is not None:
                self._take(plain[0])
                at = plain.end()
                continue
            else:
                self._read_string(text[at])
                if not self._in_string:
                    found += self._flush()
            at += 1
        return found + (self._flush() if self._is_value else [])

    def finish(self) -> list[FieldDelta]:
        """Give what was held back."""
        return self._flush() if self._is_value else []

    def _read_structure(self, character: str) -> None:
        if character in "{[":
            self._depth += 1
        elif character in "}]":
            self._depth -= 1
        elif character == '"':
            self._in_string = True
            self._text.clear()
        elif character == ":" and self._depth == 1:
            self._is_value = True
            self._text.clear()
        elif character == "," and self._depth == 1:
            self._is_value = False

    def _read_string(self, character: str) -> None:
        if self._escape:
            self._read_escape(character)
        elif character == "\\":
            self._escape = character
        elif character == '"':
            self._in_string = False
            if not self._is_value and self._depth == 1:
                self._key = "".join(self._text)
        else:
            self._take(character)

    def _read_escape(self, character: str) -> None:
        self._escape += character
        if self._escape[1] != "u":
            self._take(_ESCAPES.get(character, character))
            self._escape = ""
        elif len(self._escape) == 6:
            digits = self._escape[2:]
            is_hex = all(digit in "0123456789abcdefABCDEF" for digit in digits)
            self._take(chr(int(digits, 16)) if is_hex else digits)
            self._escape = ""

    def _take(self, text: str) -> None:
        if self._depth == 1:
            self._text.append(text)

    def _flush(self) -> list[FieldDelta]:
        if not self._is_value or self._depth != 1 or self._key not in self._fields:
            return []
        # Half of a pair of surrogates waits for the other.
        if not self._text or "\ud800" <= self._text[-1][-1] <= "\udbff":
            return []
        text = "".join(self._text)
        self._text.clear()
        sendable = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        return [FieldDelta(self._key, sendable)]
