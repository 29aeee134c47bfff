"""Values that a JSON schema allows: inputs of runs, and answers of a model."""

import math
from collections.abc import Mapping
from typing import Any, Final

Schema = Mapping[str, Any]  # Any: JSON schema is free-form

_FORMATS: Final[Mapping[str, str]] = {
    "date": "2026-01-01",
    "date-time": "2026-01-01T00:00:00Z",
    "time": "00:00:00Z",
    "duration": "PT1S",
    "uuid": "00000000-0000-4000-8000-000000000000",
    "uri": "https://example.com/",
    "email": "someone@example.com",
}


def value_of(
    schema: Schema, *, number: int = 0, text: str = "ok", choice: str = ""
) -> Any:  # Any: as the schema says
    """Give a value that the schema allows, the same each time.

    Texts are `text`, numbers the next to `number`; of several possible values it is the
    `number`-th, or `choice` where it is one. Bounds are kept, patterns are not.
    """
    return _Maker(schema.get("$defs", {}), number, text, choice).make(
        schema, frozenset()
    )


class _Maker:
    def __init__(self, defs: Schema, number: int, text: str, choice: str) -> None:
        self._defs = defs
        self._number = number
        self._text = text
        self._choice = choice

    def make(self, schema: Schema, within: frozenset[str]) -> Any:  # Any: as above
        """Give the value; `within` are the definitions that it is a part of."""
        if "$ref" in schema:
            name: str = schema["$ref"].rpartition("/")[2]
            return self.make(self._defs[name], within | {name})
        for word in ("const", "default"):
            if word in schema:
                return schema[word]
        if "enum" in schema:
            options: list[Any] = schema["enum"]  # Any: JSON
            if self._choice in options:
                return self._choice
            return options[self._number % len(options)]
        for word in ("anyOf", "oneOf", "allOf"):
            if word in schema:
                parts: list[Schema] = schema[word]
                # A tree ends where it may.
                ends = [it for it in parts if not _repeats(it, within)]
                return self.make((ends or parts)[0], within)
        match schema.get("type"):
            case "object":
                properties: Schema = schema.get("properties", {})
                return {it: self.make(properties[it], within) for it in properties}
            case "array":
                return self._array(schema, within)
            case "integer" | "number":
                return self._amount(schema)
            case "boolean":
                return self._number % 2 == 0
            case "null":
                return None
            case _:
                return self._string(schema)

    def _array(
        self, schema: Schema, within: frozenset[str]
    ) -> list[Any]:  # Any: as above
        if "prefixItems" in schema:
            return [self.make(it, within) for it in schema["prefixItems"]]
        items: Schema = schema.get("items", {})
        count = max(0 if _repeats(items, within) else 1, schema.get("minItems", 0))
        count = min(count, schema.get("maxItems", count))
        return [self.make(items, within) for _ in range(count)]

    def _amount(self, schema: Schema) -> float:
        step = schema.get("multipleOf", 1)
        least = schema.get("minimum", -math.inf)
        if "exclusiveMinimum" in schema:
            least = max(least, schema["exclusiveMinimum"] + step)
        most = schema.get("maximum", math.inf)
        if "exclusiveMaximum" in schema:
            most = min(most, schema["exclusiveMaximum"] - step)
        if least > most:  # between two bounds there is less than a step
            least = most = (schema["exclusiveMinimum"] + schema["exclusiveMaximum"]) / 2
        amount = min(max(self._number, least), most)
        if "multipleOf" in schema:
            above = math.ceil(amount / step) * step
            amount = above if above <= most else math.floor(amount / step) * step
        return int(amount) if schema["type"] == "integer" else float(amount)

    def _string(self, schema: Schema) -> str:
        text = _FORMATS.get(schema.get("format", ""), self._text)
        text = text.ljust(schema.get("minLength", 0), "-")
        return text[: schema.get("maxLength")]


def _repeats(schema: Schema, within: frozenset[str]) -> bool:
    return schema.get("$ref", "").rpartition("/")[2] in within
