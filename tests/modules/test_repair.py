"""Repair of broken JSON: as json_repair does it, also where the text was shortened."""

import json
import random
import sys
from collections.abc import Callable
from importlib import import_module
from types import FrameType
from typing import Any

import json_repair
import pytest

from dspex import Signature
from dspex.modules import repair_parser
from dspex.modules.adapters.chat import ChatAdapter
from dspex.modules.adapters.json import JSONAdapter
from dspex.modules.adapters.xml import XMLAdapter
from dspex.modules.errors import AdapterParseError
from dspex.modules.repair import repair
from dspex.modules.repair_parser import UnrepairableError
from dspex.modules.tools.calls import read_arguments
from dspex.providers.messages import Choice

WORDS = [
    "a",
    "line",
    "of",
    "text",
    "it",
    "was",
    "hello",
    "there",
    "über",
    "Ärger.",
    "the",
    "end;",
    "what?",
    "fine!",
]


def broken(seed: int) -> str:
    """Give a long JSON text with a few random characters taken out or put in."""
    rng = random.Random(seed)

    def run() -> str:
        return " ".join(rng.choice(WORDS) for _ in range(rng.randint(1, 60)))

    between = ["", ", ", ": ", "\n", '"', "'", "it's ", "(x) ", "{y} "]
    between += ['a "quoted" word, ', "\\", '\\"[x"]', "„low” ", "tab\t"]
    value = {
        "a": rng.choice(between).join(run() for _ in range(3)),
        "b": [run(), {run()[:80]: run()}, 1, None],
    }
    text = json.dumps(value, ensure_ascii=seed % 2 == 0)
    for _ in range(rng.randint(1, 4)):
        cut = rng.randrange(len(text))
        put = rng.choice([*"\"',:{}[]\n\\#`", ""])
        text = text[:cut] + put + text[cut + rng.randint(0, 1) :]
    return text[: rng.randint(len(text) // 2, len(text))]


@pytest.mark.parametrize("start", range(0, 400, 100))
def test_what_is_put_back_is_what_json_repair_gives(
    start: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dspex.modules.repair._LONG", 0)
    texts = [broken(seed) for seed in range(start, start + 100)]
    assert [repair(text) for text in texts] == [json_repair.loads(t) for t in texts]


def test_a_long_broken_text_keeps_every_character() -> None:
    body = "a line of text " * 10_000
    assert repair(f"{{'reasoning': '{body}', 'answer': 'x'") == {
        "reasoning": body,
        "answer": "x",
    }


HOSTILE = ["{" * 100_000, '{"' * 4_000, "[{" * 8_000, "}" * 200 + '{"a": (' * 4_000]


@pytest.mark.parametrize("text", HOSTILE)
def test_what_is_nested_too_deep_is_never_given_to_json_repair(
    text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr("dspex.modules.repair.parse_broken")
    with pytest.raises(UnrepairableError, match="nested more than 100 deep"):
        repair(text)
    answer = Choice(text)
    with pytest.raises(AdapterParseError, match="nested more than 100 deep"):
        JSONAdapter().parse(Signature("q -> r"), answer)
    with pytest.raises(AdapterParseError, match="nested more than 100 deep"):
        JSONAdapter().parse(
            Signature("q -> r: list[str]"), Choice(json.dumps({"r": text}))
        )
    with pytest.raises(AdapterParseError, match=r"no \[\[ ## r ## \]\]"):
        ChatAdapter().parse(Signature("q -> r"), answer)
    with pytest.raises(AdapterParseError):
        XMLAdapter().parse(Signature("q -> r"), answer)
    with pytest.raises(ValueError, match="no JSON object"):
        read_arguments(text)


def test_a_text_over_the_limit_is_read_as_it_stands_or_not_at_all() -> None:
    long = "x" * 1_000_001
    assert repair(json.dumps({"r": long})) == {"r": long}
    assert repair("[" * 150 + "]" * 150) == json.loads("[" * 150 + "]" * 150)
    with pytest.raises(UnrepairableError, match="more than 1000000 characters long"):
        repair(f"{{'r': '{long}'")


def test_markers_in_a_json_answer_are_not_repaired(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delattr("dspex.modules.repair.parse_broken")
    answer = Choice("[[ ## r ## ]]\n" * 1_000 + "x")
    assert JSONAdapter().parse(Signature("q -> r"), answer).outputs == {"r": ""}


def test_an_unreadable_object_is_repaired_once(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = list[str]()

    def counted(text: str) -> object:
        texts.append(text)
        return repair_parser.parse_broken(text)

    monkeypatch.setattr("dspex.modules.repair.parse_broken", counted)
    with pytest.raises(AdapterParseError):
        JSONAdapter().parse(Signature("q -> r"), Choice("{'s': 1"))
    assert len(texts) == 1


UNITS = ['a "quoted" word, ', 'if x == \\"a\\":\\n  y(1)', 'it\'s a "{b}" [c], (d): ']


def looks(work: Callable[[], object]) -> int:
    """Count how often the parser looks at a character."""
    count = 0

    def note(frame: FrameType, event: str, argument: object) -> None:
        nonlocal count
        count += event == "call" and frame.f_code.co_name == "get_char_at"

    sys.setprofile(note)
    try:
        work()
    finally:
        sys.setprofile(None)
    return count


@pytest.mark.parametrize("unit", UNITS)
def test_the_work_grows_with_the_text_and_not_its_square(unit: str) -> None:
    def text(size: int) -> str:
        return f'{{"reasoning": "{unit * (size // len(unit))}", "answer": "x"'

    small = looks(lambda: repair(text(3_000)))
    large = looks(lambda: repair(text(30_000)))
    assert small > 3_000
    assert large < 11 * small


def test_a_growing_string_is_never_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    strings: Any = import_module("json_repair.parse_string")
    parts, scan = list[int](), strings._scan_string_body

    def watched(parser: object, state: Any) -> object:
        before = state.string_acc
        found = scan(parser, state)
        assert state.string_acc is before
        parts.append(len(before))
        return found

    text = f'{{"r": "{UNITS[0] * 100}", "s": "x"}}'
    wanted = json_repair.loads(text)
    monkeypatch.setattr(strings, "_scan_string_body", watched)
    assert repair(text) == wanted
    assert max(parts) > 1_000


HEAVY = ['{"a": "' + 'a "b", ' * 120_000, '{"a": ' + "'}\\\"{" * 160_000]


@pytest.mark.parametrize("text", HEAVY)
def test_a_repair_that_takes_too_long_is_given_up(
    text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(repair_parser, "MAX_LOOKS", 10_000)
    monkeypatch.setattr("dspex.modules.repair.MAX_DEPTH", 10**6)

    def given_up() -> None:
        with pytest.raises(UnrepairableError, match="looks at over 10000 characters"):
            repair(text)

    assert looks(given_up) <= 10_001


def test_an_answer_that_takes_too_long_to_repair_says_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(repair_parser, "MAX_LOOKS", 1_000)
    with pytest.raises(AdapterParseError, match="looks at over 1000 characters"):
        JSONAdapter().parse(Signature("q -> a"), Choice('{"a": "' + 'a "b", ' * 300))
