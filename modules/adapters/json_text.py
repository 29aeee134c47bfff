"""JSON objects in what a model wrote: whole, repaired, or somewhere in the text."""

import json
import re
from typing import Any, TypeAlias

from dspex.modules.plain import is_object
from dspex.modules.repair import find_excess, repair
from dspex.modules.signature import Signature

# Any: what a model wrote.
JSONObject: TypeAlias = dict[str, Any]

_THINKING = re.compile(r"<think>.*?</think>", re.DOTALL | re.IGNORECASE)


def load_object(text: str) -> JSONObject | None:
    """Give the object that the text is, or the first one in it, repaired as in dspy.

    Fences, comments, single quotes, missing brackets and text around it are forgiven.
    None when there is no object.
    """
    if not _may_hold_object(text):
        return None
    found = _as_object(_load(text))
    if found is not None:
        return found
    inside = _balanced(text)
    return None if inside is None else _as_object(_load(inside))


def why_no_object(text: str) -> str:
    """Say why `load_object` finds none."""
    excess = find_excess(text) if _may_hold_object(text) else None
    return excess or "there is no JSON object in it"


def find_object(text: str, signature: Signature) -> JSONObject | None:
    """Give an object with all required outputs of the signature, if there is one."""
    if "{" not in text:
        return None
    found = load_object(text)
    if found is None or not has_outputs(found, signature):
        return None
    return {name: found[name] for name in signature.output_fields if name in found}


def has_outputs(found: JSONObject, signature: Signature) -> bool:
    """Whether every output that cannot be left out is a key of the object."""
    return all(
        name in found or field.is_optional
        for name, field in signature.output_fields.items()
    ) and any(name in found for name in signature.output_fields)


def loosely(
    found: JSONObject, signature: Signature
) -> tuple[JSONObject, list[str]] | None:
    """Give the outputs from keys in other case, or from an object one level down.

    With what was forgiven; None when they are not there either.
    """
    notes: list[str] = []
    inner = [_as_object(value) for value in found.values()]
    levels = [(found, ""), *((value, "wrapped-json") for value in inner if value)]
    for candidate, note in levels:
        keys = {key.casefold(): key for key in candidate}
        read: JSONObject = {}
        for name in signature.output_fields:
            if name in candidate:
                read[name] = candidate[name]
            elif name.casefold() in keys:
                read[name] = candidate[keys[name.casefold()]]
                notes.append("key-case")
        if has_outputs(read, signature):
            return read, [*notes, note] if note else notes
        notes.clear()
    return None


def without_thinking(text: str) -> str:
    """Give the text without its `<think>` blocks."""
    return _THINKING.sub("", text)


def _may_hold_object(text: str) -> bool:
    # The repair takes round brackets for braces, too.
    return "{" in text or "(" in text


def _as_object(value: object) -> JSONObject | None:
    return value if is_object(value) else None


def _load(text: str) -> object:
    try:
        return json.loads(text)
    except ValueError:
        pass
    except RecursionError:
        return None
    try:
        return repair(text)
    # What it raises for some inputs is not documented; nothing readable is there.
    except (ValueError, TypeError, IndexError, RecursionError):
        return None


def _balanced(text: str) -> str | None:
    """Give the leftmost `{...}` whose braces match, quotes or not, as dspy finds it."""
    opened: list[int] = []
    best: tuple[int, int] | None = None
    for match in re.finditer(r"[{}]", text):
        if match[0] == "{":
            opened.append(match.start())
        elif opened:
            start = opened.pop()
            if best is None or start < best[0]:
                best = (start, match.end())
            if not opened:
                break
    return None if best is None else text[best[0] : best[1]]
