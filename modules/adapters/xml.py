"""Outputs in XML tags: for models that were taught to write them."""

import re
from html import unescape
from xml.etree import ElementTree

import pydantic

from dspex.modules.adapters.json_text import find_object
from dspex.modules.adapters.prompt import describe_fields, describe_value, show_output
from dspex.modules.adapters.protocol import Demo, Reading
from dspex.modules.adapters.text_adapter import EMPTY, TextAdapter
from dspex.modules.adapters.values import UnreadableValueError
from dspex.modules.adapters.xml_value import group_children, possible_values, text_of
from dspex.modules.errors import AdapterParseError
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
        if not text:
            raise self.error(signature, text, EMPTY)
        notes: list[str] = []
        groups = _groups(text)
        if groups is not None:
            found = {
                name: _choose(self, field, groups[name], notes)
                for name, field in signature.output_fields.items()
                if name in groups
            }
            try:
                return self.read_outputs(signature, text, found, notes)
            except AdapterParseError:
                if found:
                    raise
        loose, note = _find_tags(text, signature), "loose-tags"
        if not loose:
            loose, note = dict(find_object(text, signature) or {}), "json-in-xml"
        return self.read_outputs(signature, text, loose, [note])

    def read_field(self, field: Field, value: object, notes: list[str]) -> object:
        """Read one output; a text may be a value of its type as it stands.

        The tags of a model are those of its fields' names, aliased or not.

        Raises:
            UnreadableValueError: it is no value of the type, or breaks a constraint.
        """
        try:
            return super().read_field(field, value, notes)
        except UnreadableValueError:
            by_name = None if isinstance(value, str) else True
            try:
                return field.validator.validate_python(value, by_name=by_name)
            except pydantic.ValidationError:
                pass
            raise


def _groups(text: str) -> dict[str, list[ElementTree.Element]] | None:
    """Give the elements by tag; None where the text is no well-formed XML."""
    try:
        return group_children(ElementTree.fromstring(f"<all>{text}</all>"))
    except ElementTree.ParseError:
        return None


def _choose(
    adapter: XMLAdapter,
    field: Field,
    elements: list[ElementTree.Element],
    notes: list[str],
) -> object:
    """Give the first of the possible values that the field takes."""
    try:
        schema = field.plain_validator.json_schema(by_alias=False)
    except pydantic.errors.PydanticInvalidForJsonSchema:
        schema = {}
    values = list(possible_values(elements, schema))
    text = text_of(elements[0])
    for value in (*values, text):
        try:
            adapter.read_field(field, value, [])
        except UnreadableValueError:
            continue
        if text not in values and value is text:
            notes.append("text-in-tag")
        return value
    return values[0]


def _find_tags(text: str, signature: Signature) -> dict[str, object]:
    """Find the outputs' tags in text that is no XML as a whole, or deeper in it."""
    found: dict[str, object] = {}
    for name in signature.output_fields:
        match = re.search(rf"<{name}>(.*?)</{name}>", text, re.DOTALL)
        if match:
            found[name] = unescape(match[1].strip())
    return found
