"""JSON text: what runs keep and send; what has no such form is told in words."""

import json
import re
import sys
from typing import Final

from pydantic_core import to_json

from dspex.runtime.engine.errors import NotJsonError

_KNOWN: Final = {
    "surrogates not allowed": (
        "has a lone surrogate, half of a character: decode it as UTF-8 or replace it"
    ),
    "invalid utf-8": "has bytes that are not UTF-8: give them as base64 text",
    "Circular reference": "contains itself",
    "depth exceeded": "is nested too deeply, over 250 levels",
}


def strict_text(value: object) -> str:
    """Give JSON text; what JSON has no form for is written as its str.

    Raises:
        NotJsonError: there is no such text, or none that can be read again.
    """
    try:
        text = to_json(value, fallback=str)
    # The value may be anything, and so may what its str raises.
    except Exception as error:
        raise NotJsonError(_problem(error)) from error
    # Python writes longer numbers than it reads.
    digits = sys.get_int_max_str_digits() or len(text)
    if len(text) > digits and re.search(rb"\d{%d}" % (digits + 1), text):
        try:
            json.loads(text)
        except ValueError as error:
            problem = f"has a whole number of more than {digits} digits"
            raise NotJsonError(problem) from error
    return text.decode()


def to_text(value: object) -> str:
    r"""Give JSON text as `strict_text` does; a lone surrogate is written as `\ud800`.

    Raises:
        NotJsonError: there is no such text.
    """
    try:
        return strict_text(value)
    except NotJsonError as error:
        if not isinstance(error.__cause__, Exception) or "surrogates" not in str(
            error.__cause__
        ):
            raise
        try:
            return json.dumps(value, default=str)
        except (TypeError, ValueError, RecursionError):
            raise error from error.__cause__


def json_problem(value: object) -> str | None:
    """Say why a value has no JSON text; None if it has one."""
    try:
        strict_text(value)
    except NotJsonError as error:
        return error.problem
    return None


def _problem(error: Exception) -> str:
    try:
        text = str(error)
    except Exception:  # noqa: BLE001 - an error of the value's own
        text = ""
    for sign, problem in _KNOWN.items():
        if sign in text:
            return problem
    text = text.removeprefix("Error serializing to JSON: ")
    kind = type(error).__name__
    return f"cannot be written as JSON: {ascii(text[:200]) if text else kind}"
