"""Repair of broken JSON: as json_repair does it, also where the text was shortened."""

import json
import random

import json_repair
import pytest

from dspex import Signature
from dspex.modules.adapters.chat import ChatAdapter
from dspex.modules.adapters.json import JSONAdapter
from dspex.modules.adapters.xml import XMLAdapter
from dspex.modules.errors import AdapterParseError
from dspex.modules.repair import UnrepairableError, repair
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
    monkeypatch.delattr(json_repair, "loads")
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
    monkeypatch.delattr(json_repair, "loads")
    answer = Choice("[[ ## r ## ]]\n" * 1_000 + "x")
    assert JSONAdapter().parse(Signature("q -> r"), answer).outputs == {"r": ""}


def test_an_unreadable_object_is_repaired_once(monkeypatch: pytest.MonkeyPatch) -> None:
    loads, texts = json_repair.loads, list[str]()

    def counted(text: str) -> object:
        texts.append(text)
        return loads(text)

    monkeypatch.setattr(json_repair, "loads", counted)
    with pytest.raises(AdapterParseError):
        JSONAdapter().parse(Signature("q -> r"), Choice("{'s': 1"))
    assert len(texts) == 1
