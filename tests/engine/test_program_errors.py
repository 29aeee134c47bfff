"""Each error in a program names its file, line and step, in YAML and in JSON."""

import json
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema_rs import Draft202012Validator

from dspex.runtime.engine import Program, ProgramError
from dspex.testing import ScriptedLM
from dspex.worker.open_runtime import open_runtime

ROOT = Path(__file__).parents[2]

GOOD: dict[str, Any] = {
    "name": "p",
    "inputs": ["text"],
    "steps": {
        "first": {"module": "Predict", "signature": "text -> words: list[str]"},
        "second": {
            "module": "Predict",
            "signature": "words: list[str], text -> count: int",
            "inputs": {"words": "first.words"},
            "after": ["first"],
            "when": "len(first.words) > 1",
            "config": {},
            "options": {"timeout": 5},
        },
    },
    "outputs": {"count": "second.count"},
}

# What is wrong in the step `second`: path of the value, the value, where the error
# points, what it says.
IN_STEP = [
    ("module", "Perdict", "module", "unknown module 'Perdict'"),
    ("signature", "words count", "signature", "signature"),
    ("signature", "words: Nope -> count", "signature", "Nope"),
    ("backend", "rust", "backend", "unknown backend 'rust'"),
    ("bakend", "native", "bakend", "'bakend' is not known here"),
    ("config", {"nope": 1}, "nope", "setting 'nope' = 1 is unknown"),
    ("config", {"temperature": 9}, "temperature", "less than or equal to 2"),
    ("demos", [{"nope": 1}], "demos", "is no field"),
    ("inputs", {"wrods": "first.words"}, "wrods", "no input 'wrods'"),
    ("inputs", {"words": "first.wrods"}, "words", "no output 'wrods'"),
    ("inputs", {"words": "frist.words"}, "words", "'frist', which is not there"),
    ("inputs", {"words": "first"}, "words", "'first' is not a reference"),
    ("inputs", {"words": "inputs.other"}, "words", "nothing gives 'other'"),
    ("inputs", {"text": "first.words"}, "text", "'text' is str, and first.words"),
    ("signature", "words: int, text -> count", "words", "'words' is int, and"),
    ("signature", "words: list[str], title -> count", "inputs", "nothing gives 'title"),
    ("after", ["frist"], "after", "after names the step 'frist'"),
    ("after", ["second"], "second", "in a cycle: second -> second"),
    ("when", "first.nope == 1", "when", "no output 'nope'"),
    ("when", "nope.words == 1", "when", "'nope', which is not there"),
    ("when", "open('x')", "when", "may not be in it"),
    ("when", "inputs.other == 1", "when", "nothing gives 'other'"),
    ("map", {"nope": "first.words"}, "map", "no input 'nope' to map over"),
    ("map", {"text": "first.nope"}, "text", "no output 'nope'"),
    ("map", {"text": "second.count"}, "text", "and second.count gives"),
    ("options", {"timeout": -1}, "timeout", "greater than 0"),
    ("options", {"timeuot": 1}, "timeuot", "'timeuot' is not known here"),
    ("options", {"on_error": "default"}, "options", "there is no default"),
    ("options", {"default": {"n": 1}}, "options", "exactly the outputs: count"),
]


def as_yaml(data: dict[str, Any]) -> str:
    return yaml.safe_dump(data, sort_keys=False, default_flow_style=False)


def as_json(data: dict[str, Any]) -> str:
    return json.dumps(data, indent=2)


def line_of(text: str, *keys: str) -> int:
    """Give the line of a key, looked for below the lines of those before it."""
    lines = [line.strip().replace('"', "") for line in text.splitlines()]
    at = -1
    for key in keys:
        at = next(
            n for n in range(at + 1, len(lines)) if lines[n].startswith(f"{key}:")
        )
    return at + 1


async def refused(text: str) -> ProgramError:
    async with open_runtime(ScriptedLM([])) as rt:
        with pytest.raises(ProgramError) as caught:
            rt.plan(Program.from_text(text, file="p.file"))
    return caught.value


@pytest.mark.parametrize("form", [as_yaml, as_json])
@pytest.mark.parametrize(("key", "value", "at", "problem"), IN_STEP)
async def test_an_error_in_a_step_names_file_line_and_step(
    key: str,
    value: object,
    at: str,
    problem: str,
    form: Callable[[dict[str, Any]], str],
) -> None:
    data = deepcopy(GOOD)
    data["steps"]["second"][key] = value
    text = form(data)
    error = await refused(text)
    keys = ("second",) if at == "second" else ("second", at)
    assert error.place is not None
    assert (error.place.file, error.place.line) == ("p.file", line_of(text, *keys))
    assert error.step == "second"
    assert str(error).startswith(f"{error.place}: step 'second': ")
    assert problem in str(error)


@pytest.mark.parametrize("form", [as_yaml, as_json])
@pytest.mark.parametrize(
    ("key", "value", "at", "problem"),
    [
        ("name", "a b", ("name",), "'name' is 'a b'"),
        ("nope", 1, ("nope",), "'nope' is not known here"),
        ("inputs", ["a b"], ("inputs",), "'a b'"),
        ("outputs", {"it": "second.nope"}, ("outputs", "it"), "no output 'nope'"),
        ("options", {"on_change": "x"}, ("options", "on_change"), "'on_change'"),
    ],
)
async def test_an_error_of_the_program_names_file_and_line(
    key: str,
    value: object,
    at: tuple[str, ...],
    problem: str,
    form: Callable[[dict[str, Any]], str],
) -> None:
    text = form(GOOD | {key: value})
    error = await refused(text)
    assert error.place is not None
    # An item of a list has a line of its own.
    line = line_of(text, *at) + isinstance(value, list)
    assert (error.place.file, error.place.line) == ("p.file", line)
    assert problem in str(error)


@pytest.mark.parametrize("form", [as_yaml, as_json])
async def test_two_steps_that_give_one_output_are_told_apart(
    form: Callable[[dict[str, Any]], str],
) -> None:
    data = deepcopy(GOOD)
    del data["outputs"]
    data["steps"]["second"]["signature"] = "text -> words: list[str]"
    data["steps"]["second"]["inputs"] = {}
    text = form(data)
    error = await refused(text)
    assert error.step == "second"
    assert error.place is not None
    assert error.place.line == line_of(text, "second")
    assert "say which under outputs" in str(error)


@pytest.mark.parametrize("form", [as_yaml, as_json])
async def test_an_input_that_no_step_uses_is_warned_of(
    form: Callable[[dict[str, Any]], str],
) -> None:
    text = form(GOOD | {"inputs": ["text", "titel"]})
    program = Program.from_text(text, file="p.file")
    async with open_runtime(ScriptedLM([])) as rt:
        (warning,) = (await rt.load(program)).warnings
        assert rt.plan(Program.from_text(form(GOOD))).warnings == ()
    line = line_of(text, "inputs") + 2
    assert warning.startswith(f"p.file:{line}:")
    assert "the input 'titel' is used by no step" in warning


def test_the_schema_for_editors_fits_the_examples_and_refuses_what_is_wrong() -> None:
    schema = Draft202012Validator(Program.model_json_schema())
    files = [
        ROOT / "examples/triage/program.yaml",
        ROOT / "examples/rag/program.yaml",
        ROOT / "examples/mixed.yaml",
    ]
    for file in files:
        data = yaml.safe_load(file.read_text())
        assert [it.message for it in schema.iter_errors(data)] == [], file
    assert list(schema.iter_errors(GOOD)) == []
    for key, value in (("bakend", "native"), ("backend", "rust"), ("module", 7)):
        data = deepcopy(GOOD)
        data["steps"]["second"][key] = value
        assert [it.instance_path[:2] for it in schema.iter_errors(data)] == [
            ["steps", "second"]
        ]
