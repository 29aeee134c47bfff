"""dspy's own types as values: Image, History, Example, Prediction, Tool, ToolCalls."""

import functools
from collections.abc import Callable
from typing import Any

from dspex.runtime.bridge.child_dspy import load_dspy
from dspex.runtime.bridge.values import Packed, pack, unpack

Dspy = Any  # Any: dspy is not installed where the types of this file are checked


def pack_value(value: object, path: str) -> Packed:
    """Pack a value that may hold dspy's types; Examples become dicts of their fields.

    Raises:
        UnsupportedValueError: a part of it does not travel.
    """
    return pack(value, path, more=_tag)


def unpack_value(
    packed: Packed,
    *,
    make_tool: "Callable[[Any], object] | None" = None,  # Any: its fields
) -> Any:  # Any: whatever was packed
    """Unpack a value of the parent; its tags become dspy's types."""
    tags = _tags()
    if make_tool is not None:
        tags = {**tags, "$tool": make_tool}
    return unpack(packed, tags=tags)


@functools.cache
def _tags() -> "dict[str, Callable[[Any], object]]":  # Any: what was packed
    dspy: Dspy = load_dspy()
    return {
        "$image": dspy.Image,
        "$audio": lambda fields: dspy.Audio(**fields),
        "$history": lambda turns: dspy.History(messages=unpack_value(turns)),
        "$example": lambda row: dspy.Example(**unpack_value(row["fields"])).with_inputs(
            *row["inputs"]
        ),
        "$tool_calls": lambda calls: dspy.ToolCalls.from_dict_list(unpack_value(calls)),
    }


def _tag(value: Dspy) -> "dict[str, Packed] | None":
    dspy: Dspy = load_dspy()
    if isinstance(value, dspy.Image):
        return {"$image": value.url}
    if isinstance(value, dspy.Audio):
        return {"$audio": {"data": value.data, "audio_format": value.audio_format}}
    if isinstance(value, dspy.History):
        return {"$history": pack_value(value.messages, "history")}
    if isinstance(value, dspy.Example):
        fields: dict[str, Packed] = pack_value(
            dict(value.items(include_dspy=False)), "example"
        )
        return fields
    if isinstance(value, dspy.ToolCalls):
        return {
            "tool_calls": [
                {"name": call.name, "args": pack_value(call.args, call.name)}
                for call in value.tool_calls
            ]
        }
    if isinstance(value, dspy.Tool):
        parameters = {"type": "object", "properties": pack_value(value.args, "args")}
        return {
            "$tool": {
                "name": value.name,
                "description": value.desc or "",
                "parameters": parameters,
            }
        }
    return None
