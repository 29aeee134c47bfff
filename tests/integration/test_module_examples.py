"""Every example of the modules runs as a program, against a provider over HTTP."""

import json
import os
import sys
from pathlib import Path

import pytest
import trio

from dspex.providers import ToolCall
from dspex.testing import Answer, open_fake_provider

EXAMPLES = Path(__file__).parents[2] / "examples" / "modules"


def call(name: str, **arguments: object) -> Answer:
    return Answer("", (ToolCall("c1", name, json.dumps(arguments)),))


def says(**outputs: object) -> Answer:
    return Answer(json.dumps(outputs))


PRODUCT = {"name": "Editor", "version": "4.2"}
ISSUE = {"summary": "It crashes.", "product": PRODUCT, "severity": "high"}

RUNS: dict[str, tuple[list[Answer], list[str]]] = {
    "question_answering.py": (
        [says(reasoning="1. Eight each.\n2. Three times.", answer=24)] * 2,
        ["How many legs have three spiders? 24", "  2. Three times."],
    ),
    "ticket_extraction.py": (
        [
            says(issues=[], wants_refund=True),
            says(issues=[ISSUE], wants_refund=True),
        ],
        ["[high] Editor 4.2: It crashes.", "refund wanted: True"],
    ),
    "agent.py": (
        [
            call("shop__price_of", product="apple"),
            call("shop__price_of", product="pear"),
            call("calculator", expression="3*0.5 + 2*3.2"),
            call("finish", total=7.9),
        ],
        [
            "shop__price_of({'product': 'apple'}) -> 0.5",
            "-> Error in price_of: KeyError: 'pear'",
            "total 7.9 (finished, 60 tokens)",
        ],
    ),
    "checked_headline.py": (
        [
            says(summary="s"),
            says(headline="one two three four five six seven eight nine"),
            says(headline="City plants trees along its river."),
            says(headline="City plants trees along its river"),
        ],
        ["City plants trees along its river"],
    ),
}


def test_every_example_is_run() -> None:
    found = {path.name for path in EXAMPLES.glob("*.py")} - {"__init__.py"}
    assert found == set(RUNS)


@pytest.mark.parametrize("name", RUNS)
async def test_example_runs(name: str) -> None:
    answers, expected = RUNS[name]
    async with open_fake_provider(answers) as server:
        environment = os.environ | {
            "OPENAI_API_KEY": "sk-test",
            "OPENAI_BASE_URL": server.url,
        }
        done = await trio.run_process(
            [sys.executable, str(EXAMPLES / name)],
            env=environment,
            capture_stdout=True,
        )
        assert len(server.requests) == len(answers)
    for line in expected:
        assert line in done.stdout.decode()
