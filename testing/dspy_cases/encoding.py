"""The encodings that all case files share: types, signatures, inputs, outputs."""

import enum
import math
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import pydantic

from dspex.modules import Field, Signature
from dspex.modules.fields import MISSING, FieldType
from dspex.modules.media import History, Image
from dspex.modules.plain import is_list, is_object, is_set, is_tuple
from dspex.modules.tools.tool import Tool
from dspex.testing.dspy_cases.tools import TOOLS

# Any: JSON.
JSON: TypeAlias = Any
Types: TypeAlias = dict[str, FieldType]


def read_models(models: Mapping[str, JSON]) -> Types:
    """Build the models and enums that a case declares; later ones may use earlier."""
    types: Types = {}
    for name, declared in models.items():
        if declared["kind"] == "enum":
            types[name] = enum.Enum(name, list(declared["members"].items()))
        else:
            types[name] = _model(name, declared["fields"], types)
    return types


def _model(name: str, fields: Sequence[JSON], types: Types) -> type[pydantic.BaseModel]:
    members: dict[str, Any] = {}  # Any: pydantic's field definitions
    for field in fields:
        settings: dict[str, Any] = dict(field.get("constraints", {}))  # Any: as above
        if "desc" in field:
            settings["description"] = field["desc"]
        if "default" in field:
            settings["default"] = field["default"]
        members[field["name"]] = (
            read_type(field["type"], types),
            pydantic.Field(**settings),
        )
    return pydantic.create_model(name, **members)


def read_type(text: str, types: Types) -> FieldType:
    """Give the type that a typing expression stands for."""
    signature = Signature(f"-> value: {text}", custom_types=types)
    return signature.output_fields["value"].annotation


def read_signature(declared: Mapping[str, JSON], types: Types) -> Signature:
    """Build a signature from its string or its fields."""
    instructions = declared.get("instructions")
    if "string" in declared:
        return Signature(declared["string"], instructions, custom_types=types)
    fields = [
        Field(
            field["name"],
            field["role"],
            read_type(field["type"], types),
            desc=field.get("desc"),
            default=field.get("default", MISSING),
            constraints=field.get("constraints", {}),
        )
        for field in declared["fields"]
    ]
    return Signature(fields=fields, instructions=instructions)


def read_value(value: JSON, types: Types) -> object:
    """Give an input: plain JSON, or one of the marked objects."""
    if not is_object(value):
        return value
    if "$model" in value:
        return types[value["$model"]](**value["value"])
    if "$image" in value:
        return Image(url=value["$image"])
    if "$history" in value:
        return History(messages=value["$history"])
    if "$tools" in value:
        return [Tool(TOOLS[name]) for name in value["$tools"]]
    return value


def encode(value: object) -> JSON:
    """Give an output the way the case files write it."""
    if isinstance(value, pydantic.BaseModel):
        return value.model_dump(mode="json")
    if isinstance(value, enum.Enum):
        return {
            "$enum": type(value).__name__,
            "name": value.name,
            "value": value.value,
        }
    if isinstance(value, float) and not math.isfinite(value):
        return {"$float": str(value)}
    if value is None or isinstance(value, str | int | float | bool):
        return value
    if is_object(value):
        return {str(key): encode(item) for key, item in value.items()}
    if is_list(value):
        return [encode(item) for item in value]
    if is_tuple(value):
        return [encode(item) for item in value]
    if is_set(value):
        return sorted((encode(item) for item in value), key=repr)
    return {"$repr": repr(value)}


def same(one: JSON, other: JSON) -> bool:
    """Whether two encoded values are one: 1, 1.0 and true are three."""
    if is_object(one) and is_object(other):
        return one.keys() == other.keys() and all(
            same(value, other[key]) for key, value in one.items()
        )
    if is_list(one) and is_list(other):
        return len(one) == len(other) and all(map(same, one, other))
    return type(one) is type(other) and bool(one == other)


def has_type(value: object, expected: str) -> bool:
    """Whether a value has the Python type that a case names: `dict[str:list[int]]`.

    What stands in the brackets is the set of the items' types.
    """
    outer, _, inner = expected.removesuffix("]").partition("[")
    if is_tuple(value) and outer == "tuple":
        names = _split(inner, ",")
        return len(names) == len(value) and all(map(has_type, value, names))
    if type(value).__name__ != outer:
        return False
    if is_object(value):
        if not inner:
            return not value
        keys, _, values = inner.partition(":")
        return _cover(list(value), keys) and _cover(list(value.values()), values)
    if is_list(value) or is_set(value):
        return _cover(list(value), inner)
    return True


def _cover(items: Sequence[object], names: str) -> bool:
    """Whether each item has one of the types, and each type an item."""
    options = [part for whole in _split(names, ",") for part in _split(whole, "|")]
    return all(any(has_type(i, name) for name in options) for i in items) and all(
        any(has_type(i, name) for i in items) for name in options
    )


def _split(text: str, separator: str) -> list[str]:
    parts: list[str] = []
    depth, current = 0, ""
    for character in text:
        depth += {"[": 1, "]": -1}.get(character, 0)
        if character == separator and depth == 0:
            parts.append(current.strip())
            current = ""
        else:
            current += character
    return [*parts, current.strip()] if current.strip() else parts
