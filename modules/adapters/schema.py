"""The JSON schema of a signature's outputs, as providers accept it."""

from collections.abc import Iterator
from typing import Any, Final, TypeAlias
from weakref import WeakKeyDictionary

import pydantic

from dspex.modules.signature import Signature
from dspex.providers.messages import OutputSchema

# Any: JSON schema is free-form.
Schema: TypeAlias = dict[str, Any]

_NAME = "outputs"
# Making one takes longer than all else that is done for a request.
_KEPT: Final = WeakKeyDictionary[Signature, dict[int | None, OutputSchema | None]]()

_BOUNDED = frozenset({"enum", "const", "format", "pattern", "maxLength"})


def output_schema(
    signature: Signature, *, max_string_length: int | None = None
) -> OutputSchema | None:
    """Give the schema of the outputs: all keys required, no others, in order.

    It is strict unless an output has keys of its own choice (`dict[str, int]`), which
    strict schemas cannot say. None when a type has no JSON schema at all. It is made
    once for a signature and is nobody's to change.
    """
    # In one look: an equal signature that is the key may be gone by the next.
    kept = _KEPT.get(signature)
    if kept is None:
        kept = _KEPT[signature] = {}
    if max_string_length not in kept:
        kept[max_string_length] = _make(signature, max_string_length)
    return kept[max_string_length]


def _make(signature: Signature, max_string_length: int | None) -> OutputSchema | None:
    fields = signature.output_fields
    try:
        found, shared = pydantic.TypeAdapter.json_schemas(
            [(name, "validation", field.validator) for name, field in fields.items()],
            ref_template="#/$defs/{model}",
        )
    except (pydantic.errors.PydanticInvalidForJsonSchema, pydantic.PydanticUserError):
        return None
    properties: Schema = {}
    for name, field in fields.items():
        properties[name] = dict(found[(name, "validation")])
        if field.desc:
            properties[name]["description"] = field.desc
    schema: Schema = {
        "type": "object",
        "properties": properties,
        "required": list(fields),
        "additionalProperties": False,
    }
    if "$defs" in shared:
        schema["$defs"] = shared["$defs"]
    strict = True
    for part in _parts(schema):
        strict = _tighten(part, max_string_length) and strict
    return OutputSchema(_NAME, schema, strict)


def _tighten(part: Schema, max_string_length: int | None) -> bool:
    """Make one sub-schema strict; False if that is impossible."""
    part.pop("title", None)
    part.pop("default", None)
    bounded = _BOUNDED & part.keys()
    if part.get("type") == "string" and max_string_length is not None and not bounded:
        part["maxLength"] = max_string_length
    if part.get("type") != "object":
        # A schema without any key means "anything".
        return bool(part)
    if "properties" not in part:
        return False
    part["required"] = list(part["properties"])
    part["additionalProperties"] = False
    return True


def _parts(schema: Schema) -> Iterator[Schema]:
    """Give the schema and every schema in it."""
    yield schema
    for key in ("properties", "$defs"):
        for part in schema.get(key, {}).values():
            yield from _parts(part)
    for key in ("anyOf", "oneOf", "allOf", "prefixItems"):
        for part in schema.get(key, ()):
            yield from _parts(part)
    for key in ("items", "additionalProperties"):
        if isinstance(schema.get(key), dict):
            yield from _parts(schema[key])
