"""Saved programs, against the real dspy in a process of its own."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from dspex.modules import (
    ChainOfThought,
    Module,
    Predict,
    ReAct,
    Signature,
    dump_dspy_state,
    load_program,
    save_program,
)

pytest.importorskip("dspy")

PROGRAM = """
import sys, dspy
def look(key: str) -> str:
    "Look a key up."
    return key
class Program(dspy.Module):
    def __init__(self):
        super().__init__()
        self.first = dspy.Predict("question -> query")
        self.steps = [dspy.ChainOfThought("query -> answer: int")]
        self.agent = dspy.ReAct("question -> answer", tools=[look])
program = Program()
"""

SAVE = """
program.first.demos = [dspy.Example(question="q", query="s", augmented=True)]
program.first.signature = program.first.signature.with_instructions("Search well.")
program.steps[0].predict.demos = [{"query": "a", "reasoning": "b", "answer": 3}]
program.save(sys.argv[1])
"""

LOAD = """
import json
program.load(sys.argv[1])
print(json.dumps({
    "names": [name for name, _ in program.named_predictors()],
    "instructions": program.first.signature.instructions,
    "demos": [dict(demo) for demo in program.first.demos],
    "typed": program.steps[0].predict.demos[0]["answer"],
}))
"""


def run_dspy(source: str, path: Path) -> str:
    code = "import os\nos.environ['LITELLM_LOCAL_MODEL_COST_MAP'] = 'True'\n"
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code + PROGRAM + source, str(path)],
        capture_output=True,
        check=True,
        text=True,
        timeout=120,
    )
    return done.stdout


def look(key: str) -> str:
    """Look a key up."""
    return key


class Program(Module):
    def __init__(self) -> None:
        self.first = Predict("question -> query")
        self.steps = [ChainOfThought("query -> answer: int")]
        self.agent = ReAct("question -> answer", [look])


def test_what_dspy_saved_loads_and_goes_back(tmp_path: Path) -> None:
    theirs, ours = tmp_path / "theirs.json", tmp_path / "ours.json"
    run_dspy(SAVE, theirs)
    program = Program()
    load_program(program, theirs)
    assert program.first.signature.instructions == "Search well."
    assert program.first.demos == ({"question": "q", "query": "s", "augmented": True},)
    assert program.steps[0].predict.demos[0]["answer"] == 3
    saved = json.loads(theirs.read_text())
    del saved["metadata"]
    assert dump_dspy_state(program) == saved

    program.first.signature = Signature("question -> query", "Ours.")
    save_program(program, ours)
    found = json.loads(run_dspy(LOAD, ours))
    assert found == {
        "names": ["first", "steps[0].predict", "agent.react", "agent.extract.predict"],
        "instructions": "Ours.",
        "demos": [{"question": "q", "query": "s", "augmented": True}],
        "typed": 3,
    }
