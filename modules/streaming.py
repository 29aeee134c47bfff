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

    def feed(self, text: str) -> list[FieldDelta]:
        """Take a piece and give what it adds to fields."""
        self._held += text
        found: list[FieldDelta] = []
        while (match := _MARKER.search(self._held)) is not None:
            if match.end() == len(self._held) and not match[0].endswith("\n"):
                break  # its line may go on
            found += self._delta(self._held[: match.start()].rstrip("\n"))
            self._held = self._held[match.end() :]
            self._field = match[1] if match[1] in self._fields else None
        # A marker may begin in the last brackets, and blank lines before one go.
        cut = self._held.find("[[")
        before = self._held if cut < 0 else self._held[:cut]
        keep = len(before.rstrip("\n["))
        found += self._delta(self._held[:keep])
        self._held = self._held[keep:]
        return found

    def finish(self) -> list[FieldDelta]:
        """Give what was held back."""
        rest = _MARKER.sub("", self._held).rstrip("\n")
        self._held = ""
        return self._delta(rest)

    def _delta(self, text: str) -> list[FieldDelta]:
        if self._field is None or not text:
            return []
        return [FieldDelta(self._field, text)]


class JSONSplitter:
    """Gives the text of the top-level strings of one JSON object, of these names."""

    def __init__(self, fields: Container[str]) -> None:
        self._fields = fields
        self._depth = 0
        self._in_string = False
        self._is_value = False
        self._escape = ""
        self._key = ""
        self._text = ""

    def feed(self, text: str) -> list[FieldDelta]:
        """Take a piece and give what it adds to fields."""
        found: list[FieldDelta] = []
        for character in text:
            if self._in_string:
                self._read_string(character)
                if not self._in_string:
                    found += self._flush()
            else:
                self._read_structure(character)
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
            self._text = ""
        elif character == ":" and self._depth == 1:
            self._is_value = True
            self._text = ""
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
                self._key = self._text
        else:
            self._text += character

    def _read_escape(self, character: str) -> None:
        self._escape += character
        if self._escape[1] != "u":
            self._text += _ESCAPES.get(character, character)
            self._escape = ""
        elif len(self._escape) == 6:
            digits = self._escape[2:]
            is_hex = all(digit in "0123456789abcdefABCDEF" for digit in digits)
            self._text += chr(int(digits, 16)) if is_hex else digits
            self._escape = ""

    def _flush(self) -> list[FieldDelta]:
        if not self._is_value or self._depth != 1 or self._key not in self._fields:
            return []
        # Half of a pair of surrogates waits for the other.
        if not self._text or "\ud800" <= self._text[-1] <= "\udbff":
            return []
        text = self._text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        self._text = ""
        return [FieldDelta(self._key, text)]
