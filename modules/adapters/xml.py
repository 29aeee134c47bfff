"""Outputs in XML tags: for models that were taught to write them."""

import re
from html import unescape
from xml.etree import ElementTree

from dspex.modules.adapters.json_text import find_object
from dspex.modules.adapters.prompt import describe_fields, describe_value, show_output
from dspex.modules.adapters.protocol import Demo, Reading
from dspex.modules.adapters.text_adapter import TextAdapter
from dspex.modules.fields import Field
from dspex.modules.signature import Signature
from dspex.providers.messages import Choice


class XMLAdapter(TextAdapter):
    """Each output in its tag, `<answer>...</answer>`; nested values as JSON in it."""

    name = "XMLAdapter"
    again = "Write all tags again."

    def describe_task(self, signature: Signature) -> str:
        """Give the task, the fields, and the tags of an answer."""
        form = "\n".join(
            f"<{name}>{{{describe_value(field)}}}</{name}>"
            for name, field in signature.output_fields.items()
        )
        parts = [
            f"Task: {signature.instructions}",
            f"You are given:\n{describe_fields(signature.input_fields.values())}",
            f"You write:\n{describe_fields(signature.output_fields.values())}",
            f"Write your answer in these tags, in this order:\n{form}",
        ]
        return "\n\n".join(parts)

    def remind(self, signature: Signature) -> str:
        """Name the tags in their order."""
        names = ", ".join(f"<{name}>" for name in signature.output_fields)
        return f"Write {names}."

    def write(self, signature: Signature, outputs: Demo) -> str:
        """Give outputs in their tags."""
        return "\n".join(
            f"<{name}>\n{show_output(field, outputs)}\n</{name}>"
            for name, field in signature.output_fields.items()
        )

    def place(self, field: Field) -> str:
        """Name the tag."""
        return f"<{field.name}>"

    def parse(self, signature: Signature, choice: Choice) -> Reading:
        """Read the outputs from their tags.

        Raises:
            AdapterParseError: an output is missing or wrong.
        """
        text = choice.text
        notes: list[str] = []
        found = _read_tags(text, signature)
        if not found:
            found = _find_tags(text, signature)
            notes.extend(["loose-tags"] if found else [])
        if not found:
            found = dict(find_object(text, signature) or {})
            notes.extend(["json-in-xml"] if found else [])
        return self.read_outputs(signature, text, found, notes)


def _read_tags(text: str, signature: Signature) -> dict[str, object]:
    """Read the outputs' tags where all of the text is well-formed XML."""
    try:
        root = ElementTree.fromstring(f"<all>{text}</all>")
    except ElementTree.ParseError:
        return {}
    found: dict[str, list[object]] = {}
    for element in root:
        field = signature.output_fields.get(element.tag)
        if field is not None and field.annotation is str and len(element):
            return _find_tags(text, signature)  # markup in a text is part of it
        if field is not None:
            found.setdefault(element.tag, []).append(_value_of(element))
    return {name: v[0] if len(v) == 1 else v for name, v in found.items()}


def _value_of(element: ElementTree.Element) -> object:
    """Give an element's text; of one with children a list of items or an object."""
    children = list(element)
    if not children:
        return (element.text or "").strip()
    if all(child.tag == "item" for child in children):
        return [_value_of(child) for child in children]
    return {child.tag: _value_of(child) for child in children}


def _find_tags(text: str, signature: Signature) -> dict[str, object]:
    """Find the outputs' tags in text that is no XML as a whole, or deeper in it."""
    found: dict[str, object] = {}
    for name in signature.output_fields:
        match = re.search(rf"<{name}>(.*?)</{name}>", text, re.DOTALL)
        if match:
            found[name] = unescape(match[1].strip())
    return found
