"""Repair of JSON that is none, in time that grows with the text and has an end.

What json_repair does with a long run of plain words depends on neither its length nor
its letters, so in long texts such runs are cut short before the repair and put back
after it. Nothing else runs meanwhile: what looks at too many characters is given up,
and what is nested too deep, or too long, is not begun.
"""

import json
import re
from collections.abc import Mapping
from typing import Final

from dspex.modules.plain import is_list, is_object
from dspex.modules.repair_parser import UnrepairableError, parse_broken

MAX_DEPTH: Final = 100
MAX_CHARACTERS: Final = 1_000_000

_LONG: Final = 4_000
_KEPT: Final = 12
# No character in it means anything to the repair, inside a string or outside.
_PLAIN_RUN: Final = re.compile(r"[^\W\d_](?:[^\W_]|[ .;!?]){46,}[^\W\d_]")
_TOKEN: Final = "zqx"
_BRACKET: Final = re.compile(r"[\[\](){}]")


def find_excess(text: str) -> str | None:
    """Give why a text is not repaired, None where it is.

    Brackets count wherever they stand, for quotes in a broken text tell nothing.
    """
    if len(text) > MAX_CHARACTERS:
        return f"it is no JSON, and more than {MAX_CHARACTERS} characters long"
    depth = 0
    for match in _BRACKET.finditer(text):
        if match[0] in "[({":
            depth += 1
            if depth > MAX_DEPTH:
                return f"it is no JSON, and nested more than {MAX_DEPTH} deep"
        elif depth:
            depth -= 1
    return None


def repair(text: str) -> object:
    """Give the value the text was meant to be, as json_repair reads it.

    Raises:
        UnrepairableError: it is no JSON, and too long, nested too deep or too much
            work to be mended.
        Exception: what json_repair raises, which it does not document.
    """
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        excess = find_excess(text)
    if excess is not None:
        raise UnrepairableError(excess)
    if len(text) < _LONG or _TOKEN in text:
        return parse_broken(text)
    runs: dict[str, str] = {}

    def shorten(match: re.Match[str]) -> str:
        run = match[0]
        token = f" {_TOKEN}{_letters(len(runs))}{_TOKEN} "
        runs[token.strip()] = run[_KEPT:-_KEPT]
        # With blanks around the token, for a word alone is not a text of words.
        return f"{run[:_KEPT]}{token}{run[-_KEPT:]}"

    return _restore(parse_broken(_PLAIN_RUN.sub(shorten, text)), runs)


def _letters(number: int) -> str:
    return "".join(chr(ord("a") + int(digit)) for digit in str(number))


_SHORTENED: Final = re.compile(rf" ({_TOKEN}[a-j]+{_TOKEN}) ")


def _restore(value: object, runs: Mapping[str, str]) -> object:
    if isinstance(value, str):
        return _SHORTENED.sub(lambda match: runs[match[1]], value)
    if is_list(value):
        return [_restore(item, runs) for item in value]
    if is_object(value):
        return {str(_restore(k, runs)): _restore(v, runs) for k, v in value.items()}
    return value
