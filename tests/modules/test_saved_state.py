import json
from pathlib import Path
from typing import Any

import pytest

from dspex.modules import (
    ChainOfThought,
    Module,
    OutputField,
    Predict,
    ReAct,
    Signature,
    StateError,
    dump_dspy_state,
    load_dspy_state,
    load_program,
    save_program,
)


class Multi(Module):
    def __init__(self) -> None:
        self.first = Predict("question -> query")
        self.steps = (ChainOfThought("query -> answer: int"), Predict("a -> b"))
        self.named = {"k": Predict("m -> n")}
        self.again = self.first
        self.frozen = ChainOfThought("x -> y")
        self.frozen.compiled = True


def test_predictors_are_named_as_dspy_names_them() -> None:
    names = [name for name, _ in Multi().named_predictors()]
    assert names == ["first", "steps[0].predict", "steps[1]", "named['k']"]
    assert [n for n, _ in Predict("a -> b").named_predictors()] == ["self"]
    agent = ReAct("q -> a", [])
    assert [n for n, _ in agent.named_predictors()] == ["react", "extract.predict"]


def test_state_goes_out_and_in() -> None:
    program = Multi()
    demos: list[dict[str, Any]] = [
        {"question": "q", "query": "s", "augmented": True},
        {"question": "q2", "query": "s2"},
    ]
    program.first.demos = tuple(demos)
    program.first.signature = Signature("question -> query", "Search well.")
    program.steps[1].signature = Signature("a -> b").with_updated_fields(
        "b", desc="the b"
    )
    state = json.loads(json.dumps(dump_dspy_state(program)))
    other = Multi()
    load_dspy_state(other, state)
    assert other.first.signature.instructions == "Search well."
    assert other.first.demos == tuple(demos)
    assert other.steps[1].signature.output_fields["b"].desc == "the b"
    assert dump_dspy_state(other) == state
    # Types come from the program, not from the file.
    assert other.steps[0].predict.signature.output_fields["answer"].annotation is int


def test_program_is_saved_to_a_file(tmp_path: Path) -> None:
    program = Predict("question -> answer", demos=[{"question": "q", "answer": "ä"}])
    save_program(program, tmp_path / "x.json")
    other = Predict("question -> answer")
    load_program(other, tmp_path / "x.json")
    assert other.demos == program.demos


STATES: list[tuple[dict[str, Any], str]] = [
    ({}, "has no saved instructions"),
    ({"signature": {"instructions": "x", "fields": []}}, "has 2 fields and the"),
    (
        {"signature": {"instructions": "x", "fields": [{}, {}]}},
        "no prefix and description for 'question'",
    ),
    ({"demos": "x"}, "demos that are no list"),
]


@pytest.mark.parametrize(("state", "problem"), STATES)
def test_state_that_does_not_fit_changes_nothing(
    state: dict[str, Any], problem: str
) -> None:
    program = Predict("question -> answer", demos=[{"question": "q", "answer": "a"}])
    before = dump_dspy_state(program)
    with pytest.raises(StateError, match=problem):
        load_dspy_state(program, state)
    assert dump_dspy_state(program) == before


def test_state_of_another_program_is_named(tmp_path: Path) -> None:
    with pytest.raises(
        StateError, match=r"the predictors first, .* saved program other"
    ):
        load_dspy_state(Multi(), {"other": {}})
    (tmp_path / "x.json").write_text("no json")
    with pytest.raises(StateError, match="is no JSON"):
        load_program(Multi(), tmp_path / "x.json")


def test_copy_can_change_without_its_original() -> None:
    program = Multi()
    copied = program.copy()
    copied.first.demos = ({"question": "x"},)
    copied.steps[0].predict.signature = Signature("query -> answer", "Other.").prepend(
        "reasoning", OutputField()
    )
    assert program.first.demos == ()
    assert copied.again is copied.first
    assert not program.steps[0].predict.signature.has_instructions
    reset = copied.reset_copy()
    assert reset.first.demos == ()
    assert copied.first.demos == ({"question": "x"},)


def test_what_dspy_cannot_read_is_not_written() -> None:
    program = Predict("q -> a", demos=[{"q": "?", "a": float("inf")}])
    (demo,) = dump_dspy_state(program)["demos"]
    assert demo == {"q": "?", "a": None}


def test_an_empty_description_is_kept() -> None:
    signature = Signature("q -> a").with_updated_fields("a", desc="")
    fields = dump_dspy_state(Predict(signature))["signature"]["fields"]
    assert [field["description"] for field in fields] == ["${q}", ""]


def test_predictors_nested_deeper_than_dspy_looks_have_no_name() -> None:
    class Deep(Module):
        def __init__(self) -> None:
            self.steps = [Predict("q -> a"), [Predict("q -> a")]]
            self.table = {"k": ChainOfThought("q -> a"), "l": [Predict("q -> a")]}

    names = [name for name, _ in Deep().named_predictors()]
    assert names == ["steps[0]", "table['k'].predict"]
