"""Pydantic types from JSON schema: the parent's types, made again in the child."""

import datetime
import decimal
import enum
import uuid
from typing import Annotated, Any, Literal, Union

import pydantic

from dspex.runtime.bridge.protocol import JSONObject

Type = Any  # Any: classes, unions, literals, annotated types

_FORMATS: "dict[str, Type]" = {
    "date": datetime.date,
    "date-time": datetime.datetime,
    "time": datetime.time,
    "duration": datetime.timedelta,
    "uuid": uuid.UUID,
    "decimal": decimal.Decimal,
}
_PLAIN: "dict[str, Type]" = {
    "string": str,
    "integer": int,
    "number": float,
    "boolean": bool,
    "null": type(None),
}
_BOUNDS = {
    "minimum": "ge",
    "maximum": "le",
    "exclusiveMinimum": "gt",
    "exclusiveMaximum": "lt",
    "multipleOf": "multiple_of",
    "minLength": "min_length",
    "maxLength": "max_length",
    "minItems": "min_length",
    "maxItems": "max_length",
    "pattern": "pattern",
}


def build_types(schemas: "dict[str, JSONObject]") -> "dict[str, Type]":
    """Build a type for each schema, by name.

    Raises:
        LookupError: a `$ref` that leads nowhere.
    """
    return {
        name: _Builder(schema.get("$defs", {})).build(schema, name)
        for name, schema in schemas.items()
    }


class _Builder:
    def __init__(self, definitions: "dict[str, JSONObject]") -> None:
        self._definitions = definitions
        self._built: dict[str, Type] = {}
        self._building: set[str] = set()

    def build(self, schema: JSONObject, name: str) -> Type:
        built = self._of(schema, name)
        for model in self._built.values():
            if isinstance(model, type) and issubclass(model, pydantic.BaseModel):
                model.model_rebuild(_types_namespace=self._built)
        return built

    def _of(self, schema: Any, name: str) -> Type:  # Any: `true` is a schema too
        if schema is None or isinstance(schema, bool) or not schema:
            return Any
        known: JSONObject = schema
        bounds: dict[str, Any] = {  # Any: numbers and a pattern
            ours: known[theirs] for theirs, ours in _BOUNDS.items() if theirs in known
        }
        plain = self._unbounded(known, name)
        return Annotated[plain, pydantic.Field(**bounds)] if bounds else plain

    def _unbounded(self, schema: JSONObject, name: str) -> Type:
        if "$ref" in schema:
            return self._ref(schema["$ref"])
        if "const" in schema:
            return Literal[schema["const"]]
        if "enum" in schema:
            return _enumeration(schema["enum"])
        for word in ("anyOf", "oneOf"):
            if word in schema:
                return _union([self._of(option, name) for option in schema[word]])
        if len(schema.get("allOf", ())) == 1:
            return self._of(schema["allOf"][0], name)
        kind: Any = schema.get("type")  # Any: a name or a list of names
        if type(kind) is list:
            return _union([self._of({**schema, "type": k}, name) for k in kind])
        if kind == "array":
            return self._array(schema, name)
        if kind == "object":
            return self._object(schema, name)
        if kind == "string" and schema.get("format") in _FORMATS:
            return _FORMATS[schema["format"]]
        return _PLAIN.get(kind or "", Any)

    def _array(self, schema: JSONObject, name: str) -> Type:
        if "prefixItems" in schema:
            items = [self._of(item, name) for item in schema["prefixItems"]]
            return tuple[tuple(items)]  # type: ignore[misc]
        item = self._of(schema.get("items"), f"{name}Item")
        return set[item] if schema.get("uniqueItems") else list[item]  # type: ignore[valid-type]

    def _object(self, schema: JSONObject, name: str) -> Type:
        if "properties" not in schema:
            value = self._of(schema.get("additionalProperties"), f"{name}Value")
            return dict[str, value]  # type: ignore[valid-type]
        required = set(schema.get("required", ()))
        fields: dict[str, Any] = {}
        for key, inner in schema["properties"].items():
            annotation = self._of(inner, f"{name}{key.title()}")
            default = ... if key in required else inner.get("default")
            if key not in required and default is None:
                annotation = _union([annotation, type(None)])
            description = inner.get("description")
            fields[key] = (
                annotation,
                pydantic.Field(default, description=description),
            )
        closed = schema.get("additionalProperties") is False
        config = pydantic.ConfigDict(extra="forbid" if closed else "ignore")
        return pydantic.create_model(
            schema.get("title", name),
            __config__=config,
            __doc__=schema.get("description"),
            **fields,
        )

    def _ref(self, ref: str) -> Type:
        name = ref.removeprefix("#/$defs/")
        if name in self._built:
            return self._built[name]
        if name in self._building:
            return name  # a type that holds itself: resolved when all are built
        if name not in self._definitions:
            raise LookupError(
                f"a JSON schema refers to {ref!r}, which it does not have"
            )
        self._building.add(name)
        self._built[name] = self._of(self._definitions[name], name)
        self._building.discard(name)
        return self._built[name]


def _union(options: "list[Type]") -> Type:
    # Not `|`: the name of a type that is still being built is a string.
    return Union[tuple(options)]  # noqa: UP007


def _enumeration(values: "list[Any]") -> Type:  # Any: JSON values
    if all(isinstance(value, (str, int, bool, type(None))) for value in values):
        return Literal[tuple(values)]
    return enum.Enum("Choice", {str(value): value for value in values})
