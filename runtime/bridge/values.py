"""Values that cross the process boundary, the same on both sides; never pickle.

JSON-like values, bytes and floats travel as they are; pydantic models as plain data
(`model_dump`); dates, decimals, big integers, images, sounds, conversations, examples,
tools and calls of them by a tag, a dict with the one key `$...`. Sets become lists,
tuples become lists, enum members their value.
"""

import datetime
import decimal
import enum
import re
import uuid
from collections.abc import Callable, Iterable, Mapping, Set
from dataclasses import dataclass
from typing import Any, Final

from dspex.runtime.bridge.errors import UnsupportedValueError

TOOL_NAME: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")
"""What providers take as the name of a tool."""

_INT64: Final = 2**63
_DEPTH: Final = 100
# Any: what it holds is looked at item by item.
_LISTS: Final[Any] = (list, tuple, Set)
_MAPPINGS: Final[Any] = Mapping
# Any: their constructors differ; each takes a value of its own subclasses.
_SCALARS: Final[tuple[Any, ...]] = (str, bool, int, float, bytes)

Packed = Any  # Any: what msgpack holds, nested.


@dataclass(frozen=True, slots=True)
class Image:
    """An image for a hosted module, by its URL or as a `data:` URI; dspy's Image."""

    url: str


@dataclass(frozen=True, slots=True)
class Audio:
    """A sound for a hosted module, base64 `data` in `audio_format`; dspy's Audio."""

    data: str
    audio_format: str


@dataclass(frozen=True, slots=True)
class History:
    """The turns of a conversation, oldest first, each a dict of fields; dspy's."""

    messages: tuple[Mapping[str, object], ...]


@dataclass(frozen=True, slots=True)
class Example:
    """A row of data; dspy's Example, of which `input_names` are the inputs."""

    fields: Mapping[str, object]
    input_names: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ToolCalls:
    """What a model wants done, each a dict of name and args; dspy's ToolCalls."""

    tool_calls: tuple[Mapping[str, object], ...]


@dataclass(frozen=True, slots=True)
class HostedTool:
    """A tool of this process that a hosted module may call; there it is dspy's Tool.

    `parameters` is the JSON schema of its arguments, an object with properties.
    """

    name: str
    description: str
    parameters: Mapping[str, Any]  # Any: JSON schema

    def __post_init__(self) -> None:
        """Check what a hosted module would otherwise find out in the middle of a run.

        Raises:
            ValueError: no name that a model can call it by, or no schema of an object.
        """
        if not TOOL_NAME.fullmatch(self.name):
            raise ValueError(
                f"tool {self.name!r}: a name has 1 to 64 letters, digits, _ and -"
            )
        if self.parameters.get("type", "object") != "object":
            raise ValueError(
                f"tool {self.name!r}: its parameters are of type "
                f"{self.parameters['type']!r}; give the schema of an object"
            )


_Pack = Callable[[Any], dict[str, Packed] | None]  # Any: asked about every value

_TAGS: Final[dict[str, Callable[[Any], object]]] = {
    "$datetime": datetime.datetime.fromisoformat,
    "$date": datetime.date.fromisoformat,
    "$time": datetime.time.fromisoformat,
    "$timedelta": lambda seconds: datetime.timedelta(seconds=seconds),
    "$decimal": decimal.Decimal,
    "$uuid": uuid.UUID,
    "$int": int,
    "$image": Image,
    "$audio": lambda fields: Audio(**fields),
    "$history": lambda messages: History(tuple(unpack(messages))),
    "$example": lambda row: Example(unpack(row["fields"]), tuple(row["inputs"])),
    "$tool_calls": lambda calls: ToolCalls(tuple(unpack(calls))),
    "$tool": lambda fields: HostedTool(**fields),
}


def pack(value: object, path: str, *, more: _Pack | None = None) -> Packed:
    """Turn a value into what msgpack holds; `path` names it in errors.

    `more` may pack types of its own: it gives a tagged dict, or None.

    Raises:
        UnsupportedValueError: a part of it has a type that does not travel.
    """
    return _pack(value, path, more, _DEPTH)


def unpack(
    packed: Packed, *, tags: Mapping[str, Callable[[Any], object]] | None = None
) -> Any:  # Any: whatever was packed
    """Turn back what `pack` gave; `tags` are more tags than the ones known here."""
    kind: Any = type(packed)  # Any: compared, nothing else
    if kind is list:
        return [unpack(item, tags=tags) for item in packed]
    if kind is not dict:
        return packed
    if len(packed) == 1:
        tag = next(iter(packed))
        content = packed[tag]
        if tag == "$dict":
            return {key: unpack(item, tags=tags) for key, item in content}
        make = (tags or {}).get(tag) or _TAGS.get(tag)
        if make is not None:
            return make(content)
    return {key: unpack(item, tags=tags) for key, item in packed.items()}


# Any: it is asked what it is, step by step.
def _pack(value: Any, path: str, more: _Pack | None, depth: int) -> Packed:
    kind: Any = type(value)  # Any: compared, nothing else
    if value is None or kind in (str, bool, float, bytes):
        return value
    if depth == 0:
        raise UnsupportedValueError(f"{path} (nested over {_DEPTH} deep)", value)
    if kind is int:
        return value if -_INT64 <= value < _INT64 else {"$int": str(value)}
    if kind is dict:
        return _pack_dict(value, path, more, depth)
    if isinstance(value, _LISTS):
        return _pack_items(value, path, more, depth)
    tagged = more(value) if more is not None else None
    if tagged is None:
        tagged = _tag(value)
    if tagged is not None:
        return tagged
    if isinstance(value, enum.Enum):
        return _pack(value.value, path, more, depth - 1)
    dump = getattr(value, "model_dump", None)
    if callable(dump):
        return _pack(dump(), path, more, depth - 1)
    if isinstance(value, _MAPPINGS):
        return _pack_dict(value, path, more, depth)
    for base in _SCALARS:
        if isinstance(value, base):
            return _pack(base(value), path, more, depth - 1)
    raise UnsupportedValueError(path, value)


def _pack_items(
    value: Iterable[object], path: str, more: _Pack | None, depth: int
) -> Packed:
    return [
        _pack(item, f"{path}[{index}]", more, depth - 1)
        for index, item in enumerate(value)
    ]


def _pack_dict(
    value: Mapping[Any, object],  # Any: the keys are checked here
    path: str,
    more: _Pack | None,
    depth: int,
) -> Packed:
    packed: dict[str | int, Packed] = {}
    for key, item in value.items():
        if not isinstance(key, str | int):
            raise UnsupportedValueError(f"a key of {path}", key)
        packed[key] = _pack(item, f"{path}[{key!r}]", more, depth - 1)
    if len(packed) == 1 and str(next(iter(packed))).startswith("$"):
        return {"$dict": [[key, item] for key, item in packed.items()]}
    return packed


def _tag(value: object) -> dict[str, Packed] | None:
    # A datetime is a date: the order counts.
    if isinstance(value, datetime.datetime):
        return {"$datetime": value.isoformat()}
    if isinstance(value, datetime.date):
        return {"$date": value.isoformat()}
    if isinstance(value, datetime.time):
        return {"$time": value.isoformat()}
    if isinstance(value, datetime.timedelta):
        return {"$timedelta": value.total_seconds()}
    if isinstance(value, decimal.Decimal):
        return {"$decimal": str(value)}
    if isinstance(value, uuid.UUID):
        return {"$uuid": str(value)}
    if isinstance(value, Image):
        return {"$image": value.url}
    if isinstance(value, Audio):
        return {"$audio": {"data": value.data, "audio_format": value.audio_format}}
    if isinstance(value, History):
        return {"$history": pack(value.messages, "history")}
    if isinstance(value, Example):
        fields = pack(dict(value.fields), "example")
        return {"$example": {"fields": fields, "inputs": list(value.input_names)}}
    if isinstance(value, ToolCalls):
        return {"$tool_calls": pack(value.tool_calls, "tool calls")}
    if isinstance(value, HostedTool):
        return {"$tool": tool_fields(value)}
    return None


def tool_fields(tool: HostedTool) -> dict[str, Packed]:
    """Give a tool as plain data."""
    return {
        "name": tool.name,
        "description": tool.description,
        "parameters": dict(tool.parameters),
    }
