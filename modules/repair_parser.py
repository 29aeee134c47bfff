"""json_repair's parser, with an end to how long it may take.

It appends to a string one character at a time, and each time copies what is there; and
from many a place in a broken text it looks ahead to the text's end: 16 kB of `]t{`
would hold up everything else for a minute. Here a string is a list of characters until
it is whole, and the characters that are looked at are counted. Every decision is
json_repair's.
"""

import inspect
from importlib import import_module
from typing import Any, Final

import json_repair
from json_repair.json_parser import JSONParser

MAX_LOOKS: Final = 600_000
"""How many looks at a character a repair may take: a third of a second.

A broken text of 100 kB without long runs of plain words takes two thirds of them.
"""


class UnrepairableError(ValueError):
    """A text is no JSON, and its repair would take too long."""


# Any: functions that are json_repair's own. A version that has not got them, or not
# so, repairs as it does.
_strings: Any = import_module("json_repair.parse_string")
_HAS_PARTS: Final = "try_valid_json_suffix" in inspect.signature(
    JSONParser
).parameters and all(
    hasattr(_strings, name)
    for name in (
        "NO_DIRECT_RESULT",
        "_finalize_string_result",
        "_prepare_string_entry",
        "_scan_string_body",
    )
)


class _Growing(list[str]):
    """The characters of a string that is being read."""

    def __getitem__(self, index: Any) -> Any:  # Any: as a list's
        if index.__class__ is slice and index.stop == -1:
            # json_repair takes an escape's backslash off by `text = text[:-1]`.
            self.pop()
            return self
        return super().__getitem__(index)  # pyright: ignore[reportUnknownVariableType]


class _Parser(JSONParser):
    def __init__(self, text: str) -> None:
        super().__init__(text, None, False, try_valid_json_suffix=True)
        self._left = MAX_LOOKS

    def parse_string(self) -> Any:  # Any: what json_repair finds
        state, found = _strings._prepare_string_entry(self)
        if found is not _strings.NO_DIRECT_RESULT:
            return found
        state.string_acc = _Growing(state.string_acc)
        end = _strings._scan_string_body(self, state)
        state.string_acc = "".join(state.string_acc)
        return _strings._finalize_string_result(self, state, end)

    def get_char_at(self, count: int = 0) -> str | None:
        self._left -= 1
        if self._left < 0:
            raise UnrepairableError(
                f"it is no JSON, and its repair looks at over {MAX_LOOKS} characters"
            )
        try:
            return self.json_str[self.index + count]  # pyright: ignore[reportUnknownVariableType]
        except IndexError:
            return None

    def skip_to_character(self, character: str | list[str], idx: int = 0) -> int:
        found = super().skip_to_character(character, idx)
        self._left -= found - idx
        return found

    def scroll_whitespaces(self, idx: int = 0, *, backwards: bool = False) -> int:
        found = super().scroll_whitespaces(idx, backwards=backwards)
        self._left -= abs(found - idx)
        return found


def parse_broken(text: str) -> object:
    """Give what `json_repair.loads` gives for a text that is no JSON.

    Raises:
        UnrepairableError: it would take too long.
        Exception: what json_repair raises, which it does not document.
    """
    if not _HAS_PARTS:
        return json_repair.loads(text)
    return _Parser(text).parse()
