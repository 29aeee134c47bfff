"""JSON objects in what a model wrote: whole, repaired, or somewhere in the text."""

import re
from typing import Any, TypeAlias

from dspex.modules.plain import is_object
from dspex.modules.repair import repair
from dspex.modules.repair_parser import UnrepairableError
from dspex.modules.signature import Signature

# Any: what a model wrote.
JSONObject: TypeAlias = dict[str, Any]

_THINKING = re.compile(r"<think>.*?</think>", re.DOTALL | re.IGNORECASE)


def load_object(text: str) -> JSONObject | None:
    """Give the object that the text is, or the first one in it, repaired as in dspy.

    Fences, comments, single quotes, missing brackets and text around it are forgiven.
    None when there is no object.

    Raises:
        UnrepairableError: there may be one, which takes too long to find.
    """
    # The repair takes round brackets for braces, too.
    if "{" not in text and "(" not in text:
        return None
    unread: UnrepairableError | None = None
    for part in (text, _balanced(text)):
        try:
            found = None if part is None else _load(part)
        except UnrepairableError as error:
            unread = error
        else:
            if is_object(found):
                return found
    if unread is not None:
        raise unread
    return None


def find_object(text: str, signature: Signature) -> JSONObject | None:
    """Give an object with all required outputs of the signature, if there is one."""
    if "{" not in text:
        return None
    try:
        found = load_object(text)
    except UnrepairableError:
        return None
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


def _as_object(value: object) -> JSONObject | None:
    return value if is_object(value) else None


def _load(text: str) -> object:
    try:
        return repair(text)
    except UnrepairableError:
        raise
    # What else it raises for some inputs is not documented; nothing readable is there.
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
