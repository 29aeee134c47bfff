"""Actions as text: `Action[search](query="a, b", k=2)` and `Finish[Paris]`.

Arguments come by position or name (`k=2`, `k: 2`), or as one JSON object. Values are
JSON or Python literals: strings in either quotes with escapes, numbers, true, None,
lists and objects, nested at will; anything else is text up to the next comma.
"""

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from dspex.modules.plain import is_object
from dspex.runtime.errors import DspexError

_ACTION: Final = re.compile(
    r"Action\s*:?\s*\[\s*([^\[\]\s()]+)\s*\]\s*\(", re.IGNORECASE
)
_FINISH: Final = re.compile(r"Finish\s*\[", re.IGNORECASE)
_NAME: Final = re.compile(r"\s*([A-Za-z_]\w*)\s*[=:](?!=)\s*")
_NUMBER: Final = re.compile(r"-?\d+(\.\d+)?([eE][-+]?\d+)?(?![\w.])")
_WORD: Final = re.compile(r"[A-Za-z_]\w*")
_IDENTIFIER: Final = re.compile(r"[A-Za-z_]\w*")
_WORDS: Final[Mapping[str, bool | None]] = {
    "true": True,
    "false": False,
    "null": None,
    "none": None,
}
_ESCAPES: Final[Mapping[str, str]] = {
    "n": "\n",
    "t": "\t",
    "r": "\r",
    "b": "\b",
    "f": "\f",
    "0": "\0",
}
_CLOSING: Final[Mapping[str, str]] = {"(": ")", "[": "]", "{": "}"}
_MAX_DEPTH: Final = 100


class ActionParseError(DspexError):
    """A text has no action that can be read; `position` is where it goes wrong."""

    def __init__(self, text: str, position: int, problem: str) -> None:
        near = text[max(0, position - 20) : position + 20]
        super().__init__(f"no readable action: {problem} at {position}, near {near!r}")
        self.text = text
        self.position = position
        self.problem = problem


@dataclass(frozen=True, slots=True)
class Action:
    """A tool to call, with its arguments by position and by name."""

    tool: str
    # Any: JSON.
    arguments: Mapping[str, Any] = field(default_factory=dict[str, Any])
    positional: tuple[Any, ...] = ()
    thought: str = ""


@dataclass(frozen=True, slots=True)
class Finish:
    """The end: the answer as the model wrote it."""

    answer: str
    thought: str = ""


class ActionParser:
    """Reads the first action in what a model wrote, and writes actions."""

    def parse(self, text: str) -> Action | Finish:
        """Give the first action; what stands before it is the thought.

        Raises:
            ActionParseError: there is none, or its arguments cannot be read.
        """
        action, finish = _ACTION.search(text), _FINISH.search(text)
        if finish is not None and (action is None or finish.start() < action.start()):
            end = _find_closing(text, finish.end() - 1)
            answer = text[finish.end() : end].strip()
            return Finish(answer, _thought(text[: finish.start()]))
        if action is None:
            raise ActionParseError(
                text, 0, "there is no Action[tool](...) or Finish[...]"
            )
        reader = _Reader(text, action.end())
        positional, named = reader.arguments()
        return Action(action[1], named, positional, _thought(text[: action.start()]))

    def format(self, action: Action | Finish) -> str:
        """Write an action so that `parse` reads the same."""
        thought = f"Thought: {action.thought}\n" if action.thought else ""
        if isinstance(action, Finish):
            return f"{thought}Finish[{action.answer}]"
        shown = [json.dumps(value, ensure_ascii=False) for value in action.positional]
        if all(_IDENTIFIER.fullmatch(name) for name in action.arguments):
            shown += [
                f"{name}={json.dumps(value, ensure_ascii=False)}"
                for name, value in action.arguments.items()
            ]
        else:
            shown.append(json.dumps(dict(action.arguments), ensure_ascii=False))
        return f"{thought}Action[{action.tool}]({', '.join(shown)})"


def _thought(text: str) -> str:
    text = text.strip()
    return re.sub(r"^thought\s*\d*\s*:\s*", "", text, flags=re.IGNORECASE).strip()


def _find_closing(text: str, start: int) -> int:
    """Find the bracket that closes the one at `start`; else the last one, else the end.

    Brackets in an answer are counted; quotes are not, for prose has apostrophes.
    """
    depth = 0
    for match in re.compile(r"[\[\]]").finditer(text, start):
        depth += 1 if match[0] == "[" else -1
        if depth == 0:
            return match.start()
    last = text.rfind("]", start)
    return last if last > start else len(text)


class _Reader:
    """Reads arguments from `text`, starting after the opening parenthesis."""

    def __init__(self, text: str, position: int) -> None:
        self.text = text
        self.position = position
        self._depth = 0

    # Any: JSON.
    def arguments(self) -> tuple[tuple[Any, ...], dict[str, Any]]:
        positional: list[Any] = []  # Any: JSON
        named: dict[str, Any] = {}  # Any: JSON
        self._skip()
        while not self._take(")"):
            name = _NAME.match(self.text, self.position)
            if name is not None:
                self.position = name.end()
                named[name[1]] = self._value(",)")
            else:
                positional.append(self._value(",)"))
            self._skip()
            if self._take(","):
                self._skip()
            elif self._peek() != ")":
                self._fail("a comma or a closing parenthesis is missing")
        if len(positional) == 1 and is_object(positional[0]) and not named:
            return (), positional[0]
        return tuple(positional), named

    def _value(self, ends: str) -> Any:  # Any: JSON
        self._skip()
        start = self._peek()
        if start in ("'", '"'):
            return self._string()
        if start in ("[", "{", "("):
            self._depth += 1
            if self._depth > _MAX_DEPTH:
                self._fail("it is nested too deeply")
            found = self._object() if start == "{" else self._list(_CLOSING[start])
            self._depth -= 1
            return found
        number = _NUMBER.match(self.text, self.position)
        if number is not None and self._ends_at(number.end(), ends):
            self.position = number.end()
            return _number(number)
        word = _WORD.match(self.text, self.position)
        if word is not None and self._ends_at(word.end(), ends):
            key = word[0].lower()
            if key in _WORDS:
                self.position = word.end()
                return _WORDS[key]
        return self._bare(ends)

    def _ends_at(self, position: int, ends: str) -> bool:
        rest = self.text[position : position + 20].lstrip()
        return not rest or rest[0] in ends

    def _bare(self, ends: str) -> str:
        """Text without quotes, up to what ends the value; brackets in it are kept."""
        start = self.position
        depth = 0
        while self.position < len(self.text):
            character = self.text[self.position]
            if depth == 0 and character in ends:
                break
            if character in _CLOSING:
                depth += 1
            elif character in ")]}":
                depth -= 1
            self.position += 1
        else:
            self._fail("it does not end")
        found = self.text[start : self.position].strip()
        if not found:
            self._fail("a value is missing")
        return found

    def _string(self) -> str:
        quote = self.text[self.position]
        start = self.position
        self.position += 1
        parts: list[str] = []
        while self.position < len(self.text):
            character = self.text[self.position]
            self.position += 1
            if character == quote:
                return _join_surrogates("".join(parts))
            parts.append(self._escape() if character == "\\" else character)
        self.position = start
        self._fail("a quote is not closed")
        return ""

    def _escape(self) -> str:
        character = self.text[self.position : self.position + 1]
        self.position += 1
        if character != "u":
            return _ESCAPES.get(character, character)
        digits = self.text[self.position : self.position + 4]
        if not re.fullmatch(r"[0-9a-fA-F]{4}", digits):
            return "u"
        self.position += 4
        return chr(int(digits, 16))

    def _list(self, end: str) -> list[Any]:  # Any: JSON
        self.position += 1
        found: list[Any] = []  # Any: JSON
        self._skip()
        while not self._take(end):
            found.append(self._value("," + end))
            self._skip()
            if self._take(","):
                self._skip()
            elif self._peek() != end:
                self._fail(f"a comma or {end} is missing")
        return found

    def _object(self) -> dict[str, Any]:  # Any: JSON
        self.position += 1
        found: dict[str, Any] = {}  # Any: JSON
        self._skip()
        while not self._take("}"):
            key = self._string() if self._peek() in ("'", '"') else self._bare(":=}")
            self._skip()
            if not self._take(":") and not self._take("="):
                self._fail("a colon is missing")
            found[key] = self._value(",}")
            self._skip()
            if self._take(","):
                self._skip()
            elif self._peek() != "}":
                self._fail("a comma or } is missing")
        return found

    def _peek(self) -> str:
        return self.text[self.position : self.position + 1]

    def _take(self, character: str) -> bool:
        if self._peek() == character:
            self.position += 1
            return True
        if not self._peek():
            self._fail("it does not end")
        return False

    def _skip(self) -> None:
        while self._peek().isspace():
            self.position += 1

    def _fail(self, problem: str) -> None:
        raise ActionParseError(self.text, self.position, problem)


def _number(match: re.Match[str]) -> int | float | str:
    if match[1] or match[2]:
        found = float(match[0])
        return found if math.isfinite(found) else match[0]
    # A longer one is text: Python refuses to convert it, and nobody meant it.
    return int(match[0]) if len(match[0]) < 4000 else match[0]


def _join_surrogates(text: str) -> str:
    """Put pairs of escaped surrogates together, as JSON means them."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
