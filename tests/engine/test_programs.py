"""Programs as data: what is read, wired and refused, and where errors point."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from dspex.runtime.engine import (
    Effects,
    Plan,
    Program,
    ProgramError,
    Run,
    RunInputError,
    Shape,
    Step,
    StepResult,
    make_plan,
)
from dspex.runtime.engine.errors import UnknownOutputError
from dspex.runtime.errors import DspexError


class Words:
    """A backend whose signature grammar is names of str fields and no more."""

    def shape(self, step: Step) -> Shape:
        if step.module != "Predict":
            raise DspexError(f"unknown module {step.module!r}: use Predict")
        left, right = step.signature.split("->")
        return Shape(
            dict.fromkeys((w.strip() for w in left.split(",")), str),
            dict.fromkeys((w.strip() for w in right.split(",")), str),
        )

    async def prepare(self, name: str, step: Step) -> None:
        raise AssertionError("planning starts nothing")

    async def release(self, name: str, step: Step) -> None:
        raise AssertionError("planning starts nothing")

    async def run(
        self,
        name: str,
        step: Step,
        inputs: Mapping[str, Any],
        *,
        effects: Effects,
        deadline: float,
    ) -> StepResult:
        raise AssertionError("planning runs nothing")


def plan(text: str) -> Plan:
    program = Program.from_text(text, file="p.yaml")
    return make_plan(program, {"native": Words(), "python": Words()})


GOOD = """
name: triage
steps:
  classify:
    module: Predict
    signature: ticket -> category
  reply:
    backend: python
    module: Predict
    signature: ticket, category, tone -> reply
    inputs:
      ticket: inputs.ticket
      tone: {value: friendly}
"""


def test_inputs_come_from_where_they_are_written_or_from_the_same_name() -> None:
    good = plan(GOOD)
    assert good.dependencies == {"classify": set(), "reply": {"classify"}}
    assert good.inputs == {"ticket": str}
    assert list(good.outputs) == ["category", "reply"]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("name: triage", "name: [", r"p\.yaml:\d+:\d+: not valid YAML"),
        ("name: triage", "", r"p\.yaml:3:1: 'name' is missing"),
        ("name: triage", "name: a b", r"p\.yaml:2:1: 'name' is 'a b'"),
        ("name: triage", "name: x\nname: y", r"p\.yaml:3:1: the key 'name' is there"),
        ("backend: python", "backend: rust", r"p\.yaml:8:5: .*unknown backend 'rust'"),
        ("backend: python", "bakend: python", r"p\.yaml:8:5: .*'bakend' is not known"),
        (
            "module: Predict",
            "module: Perdict",
            r"p\.yaml:5:5: step 'classify': unknown module",
        ),
        (
            "ticket: inputs.ticket",
            "ticket: nobody.ticket",
            r"p\.yaml:12:7: step 'reply': .*'nobody', which is not there",
        ),
        (
            "ticket: inputs.ticket",
            "ticket: classify.mood",
            r"p\.yaml:12:7: .*has no output 'mood'; it has: category",
        ),
        (
            "ticket: inputs.ticket",
            "ticket: hello",
            r"p\.yaml:12:7: .*'hello' is not a reference",
        ),
        (
            "ticket: inputs.ticket",
            "tikcet: inputs.ticket",
            r"p\.yaml:12:7: .*no input 'tikcet'",
        ),
        (
            "ticket -> category",
            "reply -> category",
            r"p\.yaml:\d:3: .*in a cycle: (classify -> reply|reply -> classify)",
        ),
    ],
)
def test_errors_name_file_line_column_and_remedy(
    old: str, new: str, message: str
) -> None:
    with pytest.raises(ProgramError, match=message):
        plan(GOOD.replace(old, new, 1))


def test_an_output_that_two_steps_give_must_be_chosen() -> None:
    text = GOOD.replace("category, tone -> reply", "tone -> category")
    with pytest.raises(ProgramError, match="say which under outputs"):
        plan(text)
    assert list(plan(text + "outputs: {it: reply.category}").outputs) == ["it"]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "input 'ticket' of program 'triage' is missing"),
        (
            {"ticket": "x", "tikcet": "y"},
            r"'tikcet' .*not known \(did you mean 'ticket'\?\); its inputs are: t",
        ),
        ({"ticket": 7}, "'ticket' .*is 7, not str"),
    ],
)
def test_inputs_of_a_run_are_checked(given: dict[str, Any], message: str) -> None:
    with pytest.raises(RunInputError, match=message):
        plan(GOOD).check_inputs(given)


def test_a_misspelt_wire_that_became_an_input_is_told_with_its_step_and_line() -> None:
    misspelt = GOOD.replace("ticket, category, tone", "ticket, categroy, tone")
    with pytest.raises(
        RunInputError,
        match=r"'categroy' .*is missing: step 'reply' \(p\.yaml:10:5\) takes it as "
        r"'categroy' \(did you mean 'category'\?\)",
    ):
        plan(misspelt).check_inputs({"ticket": "x"})


def test_an_output_that_a_run_did_not_give_is_a_key_error_that_says_which_it_did() -> (
    None
):
    run = Run("1", "triage", (), {"category": "billing", "reply": "Hello"})
    assert run.outputs == {"category": "billing", "reply": "Hello"}
    with pytest.raises(KeyError) as caught:
        run.outputs["categroy"]
    assert isinstance(caught.value, UnknownOutputError)
    assert str(caught.value) == (
        "program 'triage' gave no output 'categroy' (did you mean 'category'?); "
        "it gave: category, reply"
    )


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ProgramError, match=r"nope\.yaml: cannot read the program: No"):
        Program.load(tmp_path / "nope.yaml")
    (tmp_path / "latin.yaml").write_bytes(b"name: \xff")
    with pytest.raises(ProgramError, match="cannot read the program"):
        Program.load(tmp_path / "latin.yaml")


def test_a_program_from_python_equals_one_from_text() -> None:
    program = Program(
        name="triage",
        steps={
            "classify": Step(module="Predict", signature="ticket -> category"),
            "reply": Step(
                backend="python",
                module="Predict",
                signature="ticket, category, tone -> reply",
                inputs={"ticket": "inputs.ticket", "tone": {"value": "friendly"}},
            ),
        },
    )
    assert program == Program.from_text(GOOD)


BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "\n".join(
    f"{chr(98 + n)}: &{chr(98 + n)} [{', '.join([f'*{chr(97 + n)}'] * 9)}]"
    for n in range(9)
)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (BOMB, r"p\.yaml:\d+:\d+: it has more than 100000 values"),
        ("a: &a [*a]", r"p\.yaml:\d+:\d+: an alias contains itself"),
        ("[" * 20_000, "nested too deeply"),
        ('{"a":' * 5_000, "nested too deeply"),
        ('a: !!int "abc"', r"p\.yaml:1:4: 'abc' is no value of its kind"),
        ("a: 2026-99-99", r"p\.yaml:1:4: '2026-99-99' is no value of its kind"),
        ("a: " + "9" * 5_000, r"p\.yaml:1:4: '999+' is no value of its kind"),
        ("<<: {a: 1}", r"p\.yaml:1:1: merge keys"),
        ("a: !!python/name:os.system x", "not valid YAML"),
        ("", "a program is a mapping"),
        ("7: x", "the key '7' is not a string"),
        ("name: " + "x" * 1_000_000, r"'name' is 'x{199} \.\.\."),
    ],
)
def test_hostile_text_is_refused_in_one_line(text: str, message: str) -> None:
    with pytest.raises(ProgramError, match=message) as caught:
        plan(text)
    assert len(str(caught.value)) < 600
    assert "\n" not in str(caught.value)


def test_half_a_character_is_refused_by_the_name_of_its_input() -> None:
    with pytest.raises(RunInputError, match=r"'ticket' .* lone surrogate"):
        plan(GOOD).check_inputs({"ticket": "\ud800"})


def test_a_step_that_streams_nothing_says_what_it_said_before_it_could() -> None:
    step = Step(module="Predict", signature="q -> answer")
    plain = Program(name="p", steps={"a": step})
    # A store has programs, and idempotency keys that hold for them.
    assert plain.digest.startswith("0d0a966596e68aef")
    streamed = plain.model_dump(mode="json")
    assert "stream" not in streamed["steps"]["a"]["options"]
    streamed["steps"]["a"]["options"]["stream"] = True
    found = Program.model_validate(streamed)
    assert found.steps["a"].options.stream
    assert found.digest != plain.digest
    assert found.model_dump(mode="json") == streamed
