"""What XML elements stand for, read by the JSON schema of the field they belong to.

As dspy reads them: `<item>`s make a list, children an object, `<entry key="...">` a key
that is no name; a list may also be written as several elements of one tag.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, TypeAlias
from xml.etree import ElementTree

from dspex.modules.plain import is_object

# Any: JSON schema is free-form.
Schema: TypeAlias = Mapping[str, Any]

_NULL: Final[Schema] = {"type": "null"}


def group_children(
    element: ElementTree.Element,
) -> dict[str, list[ElementTree.Element]]:
    """Give the children by name, in order."""
    groups: dict[str, list[ElementTree.Element]] = {}
    for child in element:
        name = child.attrib.get("key", child.tag) if child.tag == "entry" else child.tag
        groups.setdefault(name, []).append(child)
    return groups


def possible_values(
    elements: Sequence[ElementTree.Element], schema: Schema
) -> Iterator[object]:
    """Give what the elements of one field may stand for, the likeliest first."""
    for choice in (schema, *schema.get("anyOf", ())):
        yield _value(elements, choice, schema.get("$defs", {}))


def text_of(element: ElementTree.Element) -> str:
    """Give an element's own text, without the blanks around it."""
    return (element.text or "").strip()


def _value(
    elements: Sequence[ElementTree.Element], schema: Schema, shared: Schema
) -> object:
    schema = _choose(elements[0], _resolve(schema, shared))
    if schema is _NULL:
        return None
    if schema.get("type") == "array":
        return _list(elements, schema.get("items", {}), shared)
    first = elements[0]
    if schema.get("type") == "string" and len(first):
        inner = (ElementTree.tostring(child, encoding="unicode") for child in first)
        return (first.text or "") + "".join(inner)
    children = group_children(first)
    if not children:
        if schema.get("type") == "object" and not text_of(first):
            return {}
        texts = [text_of(element) for element in elements]
        return texts[0] if len(texts) == 1 else texts
    known: Schema = schema.get("properties", {})
    others = schema.get("additionalProperties")
    rest: Schema = others if is_object(others) else {}
    return {
        name: _value(group, known.get(name, rest), shared)
        for name, group in children.items()
    }


def _resolve(schema: Schema, shared: Schema) -> Schema:
    name = str(schema.get("$ref", "")).rpartition("/")[2]
    found: Schema = shared.get(name, schema)
    return found


def _choose(element: ElementTree.Element, schema: Schema) -> Schema:
    """Give the branch of a union that an element looks like."""
    choices: list[Schema] | None = schema.get("anyOf")
    if not choices:
        return schema
    if _NULL in choices and not len(element) and not text_of(element):
        return _NULL
    choices = [choice for choice in choices if choice.get("type") != "null"]
    if len(element):
        # What has children is no text, where it may be something else.
        for choice in choices:
            if choice.get("type") != "string":
                return choice
    return choices[0]


def _list(
    elements: Sequence[ElementTree.Element], item: Schema, shared: Schema
) -> object:
    if len(elements) == 1:
        only = elements[0]
        if not len(only):
            text = text_of(only)
            if not text:
                return []
            if text.startswith("["):
                return text
        elements = group_children(only).get("item") or elements
    return [_value([element], item, shared) for element in elements]
