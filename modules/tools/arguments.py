"""A tool's arguments: their JSON schema, and whether a call's values fit it.

The check is JSON's, not Python's: "1" is no integer, 1.0 is one, true is none. A model
that writes the wrong type is told so instead of being guessed at.
"""

from collections.abc import Iterator, Mapping
from typing import Any, TypeAlias

from dspex.modules.plain import is_list, is_object

# Any: JSON schema and JSON values are free-form.
Schema: TypeAlias = Mapping[str, Any]


def first_misfit(value: object, schema: Schema, root: Schema) -> str | None:
    """Say in one line what is wrong with a JSON value; None when it fits.

    Checks type, enum, const, items, properties, required and anyOf; `$ref` is looked
    up in the `$defs` of `root`. Limits are left to the validator of the type.
    """
    return next(_misfits(value, schema, root, ""), None)


def _misfits(value: object, schema: Schema, root: Schema, path: str) -> Iterator[str]:
    schema = _resolve(schema, root)
    where = f"{path}: " if path else ""
    if "anyOf" in schema:
        choices: list[Schema] = schema["anyOf"]
        if not any(next(_misfits(value, c, root, path), None) is None for c in choices):
            names = " or ".join(_describe(_resolve(c, root)) for c in choices)
            yield f"{where}{_show(value)} is not {names}"
        return
    if "enum" in schema and not any(_same(value, option) for option in schema["enum"]):
        options = ", ".join(map(_show, schema["enum"]))
        yield f"{where}{_show(value)} is none of {options}"
        return
    if "const" in schema and not _same(value, schema["const"]):
        yield f"{where}{_show(value)} is not {_show(schema['const'])}"
        return
    if "type" in schema and not _has_type(value, schema["type"]):
        yield f"{where}{_show(value)} is not {_describe(schema)}"
        return
    if is_list(value):
        yield from _misfits_in_list(value, schema, root, path)
    if is_object(value):
        yield from _misfits_in_object(value, schema, root, path)


def _misfits_in_list(
    values: list[object], schema: Schema, root: Schema, path: str
) -> Iterator[str]:
    prefix: list[Schema] = schema.get("prefixItems", [])
    items = schema.get("items")
    for index, value in enumerate(values):
        if index < len(prefix):
            yield from _misfits(value, prefix[index], root, f"{path}[{index}]")
        elif is_object(items):
            yield from _misfits(value, items, root, f"{path}[{index}]")


def _misfits_in_object(
    value: dict[str, object], schema: Schema, root: Schema, path: str
) -> Iterator[str]:
    properties: Mapping[str, Schema] = schema.get("properties", {})
    start = f"{path}." if path else ""
    for name in schema.get("required", ()):
        if name not in value:
            yield f"{start}{name} is missing"
    others = schema.get("additionalProperties", True)
    for name, item in value.items():
        if name in properties:
            yield from _misfits(item, properties[name], root, f"{start}{name}")
        elif others is False:
            known = ", ".join(properties) or "none"
            yield f"{start}{name} is unknown; there are {known}"
        elif is_object(others):
            yield from _misfits(item, others, root, f"{start}{name}")


def _resolve(schema: Schema, root: Schema) -> Schema:
    reference = schema.get("$ref")
    if reference is None:
        return schema
    found: Schema = root.get("$defs", {}).get(str(reference).rpartition("/")[2], {})
    return found


def _has_type(value: object, expected: object) -> bool:
    if is_list(expected):
        return any(_has_type(value, one) for one in expected)
    if isinstance(value, bool):
        return expected == "boolean"
    if isinstance(value, int):
        return expected in ("integer", "number")
    if isinstance(value, float):
        return expected == "number" or (expected == "integer" and value.is_integer())
    names: Mapping[type, str] = {
        str: "string",
        list: "array",
        dict: "object",
        type(None): "null",
    }
    return names.get(type(value)) == expected


def _same(value: object, other: object) -> bool:
    """Whether two JSON values are one; 1 and true are not."""
    return value == other and isinstance(value, bool) == isinstance(other, bool)


def _describe(schema: Schema) -> str:
    kind = schema.get("type", "the expected value")
    names = {"integer": "an integer", "object": "an object", "array": "a list"}
    return names.get(str(kind), f"a {kind}" if "type" in schema else str(kind))


def _show(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
