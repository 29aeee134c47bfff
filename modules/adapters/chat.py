"""Outputs between field markers: for any model that can hold a conversation."""

import re
from collections.abc import Mapping

from dspex.modules.adapters.json_text import find_object
from dspex.modules.adapters.prompt import (
    describe_fields,
    describe_value,
    marker,
    show_output,
)
from dspex.modules.adapters.protocol import Demo, Reading
from dspex.modules.adapters.text_adapter import EMPTY, TextAdapter
from dspex.modules.errors import AdapterParseError
from dspex.modules.fields import Field
from dspex.modules.signature import Signature
from dspex.providers.messages import Choice

COMPLETED = "completed"

_LINE_MARKER = re.compile(r"\[\[ ## (\w+) ## \]\]")
# Anywhere, bold or not, any case and spacing.
_LOOSE_MARKER = re.compile(
    r"(?:[*_`#]+[ \t]*)?\[\[\s*#+\s*([\w ]+?)\s*#+\s*\]\](?:[*_`:]+)?"
)
# What str.splitlines splits at and a person would not call a new line.
_ODD_SEPARATOR = re.compile("[\v\f\x1c-\x1e\x85\u2028\u2029]")


class ChatAdapter(TextAdapter):
    """Inputs and outputs under `[[ ## name ## ]]` lines, as in dspy.

    Reading is tolerant: markers in mid-line, bold or in other case, and JSON instead
    of markers are understood where dspy gives up; a value that dspy reads is the same.
    """

    name = "ChatAdapter"
    again = "Write the whole answer again, each field under its marker."

    def describe_task(self, signature: Signature) -> str:
        """Give the task, the fields, and the form of an answer."""
        form = "\n\n".join(
            f"{marker(name)}\n{{{describe_value(field)}}}"
            for name, field in signature.output_fields.items()
        )
        inputs = describe_fields(signature.input_fields.values())
        outputs = describe_fields(signature.output_fields.values())
        parts = [
            f"Task: {signature.instructions}",
            f"You are given:\n{inputs}" if inputs else "",
            f"You write:\n{outputs}",
            "Write your answer in exactly this form, where {...} stands for a value:",
            f"{form}\n\n{marker(COMPLETED)}",
        ]
        return "\n\n".join(part for part in parts if part)

    def remind(self, signature: Signature) -> str:
        """Name the markers in their order."""
        names = ", ".join(marker(name) for name in signature.output_fields)
        return (
            f"Write {names}, each followed by its value, and then {marker(COMPLETED)}."
        )

    def write(self, signature: Signature, outputs: Demo) -> str:
        """Give outputs under their markers."""
        parts = [
            f"{marker(name)}\n{show_output(field, outputs)}"
            for name, field in signature.output_fields.items()
        ]
        return "\n\n".join([*parts, marker(COMPLETED)])

    def place(self, field: Field) -> str:
        """Name the marker."""
        return marker(field.name)

    def parse(self, signature: Signature, choice: Choice) -> Reading:
        """Read the outputs from the text under their markers.

        Raises:
            AdapterParseError: an output is missing or wrong.
        """
        text = choice.text
        if not text:
            raise self.error(signature, text, EMPTY)
        notes: list[str] = []
        try:
            found = _sections(text, signature, notes)
            return self.read_outputs(signature, text, found, notes)
        except AdapterParseError:
            reading = self._read_loosely(signature, text)
            if reading is None:
                raise
            return reading

    def _read_loosely(self, signature: Signature, text: str) -> Reading | None:
        candidates: tuple[tuple[str, Mapping[str, object] | None], ...] = (
            ("loose-marker", _loose_sections(text, signature)),
            ("json-in-chat", find_object(text, signature)),
        )
        for note, sections in candidates:
            if not sections:
                continue
            try:
                return self.read_outputs(signature, text, sections, [note])
            except AdapterParseError:
                continue
        return None


def _sections(text: str, signature: Signature, notes: list[str]) -> dict[str, str]:
    """Give the text under each output's first marker; markers start their line."""
    found: dict[str, list[str]] = {}
    lines: list[str] = []
    for line in text.replace("\r\n", "\n").replace("\r", "\n").split("\n"):
        stripped = line.strip()
        match = _LINE_MARKER.match(stripped) if stripped[:2] == "[[" else None
        if match is None:
            lines.append(line)
            continue
        rest = stripped[match.end() :].strip()
        lines = [rest] if rest else []
        name = match[1]
        if name in signature.output_fields and name not in found:
            found[name] = lines
            if line[:1].isspace():
                notes.append("indented-marker")
    sections = {name: "\n".join(lines).strip() for name, lines in found.items()}
    if any(_ODD_SEPARATOR.search(section) for section in sections.values()):
        notes.append("line-separator")
    return sections


def _loose_sections(text: str, signature: Signature) -> dict[str, str]:
    """Give the text under each output's first marker, wherever it is written.

    A marker that is no output's, or one that was there before, is content.
    """
    known = {name.casefold(): name for name in signature.output_fields}
    known.setdefault(COMPLETED, "")
    cuts: list[tuple[str, int, int]] = []
    for match in _LOOSE_MARKER.finditer(text):
        name = known.pop("_".join(match[1].split()).casefold(), None)
        if name is not None:
            cuts.append((name, match.start(), match.end()))
    ends = [*(start for _, start, _ in cuts), len(text)][1:]
    return {
        name: text[start:end].strip()
        for (name, _, start), end in zip(cuts, ends, strict=True)
        if name
    }
