"""Repair of broken JSON: as json_repair does it, also where the text was shortened."""

import json
import random

import json_repair
import pytest

from dspex.modules.adapters.repair import repair

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
    monkeypatch.setattr("dspex.modules.adapters.repair._LONG", 0)
    texts = [broken(seed) for seed in range(start, start + 100)]
    assert [repair(text) for text in texts] == [json_repair.loads(t) for t in texts]


def test_a_long_broken_text_keeps_every_character() -> None:
    body = "a line of text " * 10_000
    assert repair(f"{{'reasoning': '{body}', 'answer': 'x'") == {
        "reasoning": body,
        "answer": "x",
    }
