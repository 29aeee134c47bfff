import datetime
import enum
from pathlib import Path
from typing import Any, Literal, Optional

import pydantic
import pytest

from dspex import Predict
from dspex.modules import (
    Field,
    InputField,
    InputTypeError,
    MissingInputError,
    OutputField,
    Signature,
    SignatureError,
    SignatureSyntaxError,
    UnknownInputError,
    to_signature,
)


class Color(enum.Enum):
    RED = "red"


class Person(pydantic.BaseModel):
    name: str
    age: int


class Triage(Signature):
    """Sort a support ticket.

    Be kind.
    """

    ticket: str = InputField(desc="what the customer wrote")
    tone: str = InputField(default="calm")
    category: Literal["bug", "question"] = OutputField()
    urgency: int = OutputField(desc="how soon", ge=0, le=10)


def types_of(signature: Signature) -> dict[str, Any]:
    return {name: field.annotation for name, field in signature.fields.items()}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("question -> answer", {"question": str, "answer": str}),
        ("question->answer", {"question": str, "answer": str}),
        ("-> answer", {"answer": str}),
        ("question ->", {"question": str}),
        ("q -> a: int", {"q": str, "a": int}),
        ("q -> a: list[str] | None", {"q": str, "a": list[str] | None}),
        ("q -> a: Optional[int]", {"q": str, "a": Optional[int]}),  # noqa: UP045
        ("q -> a: None", {"q": str, "a": str}),
        ("q -> a: int = 5", {"q": str, "a": int}),
        ("q -> a: Literal['x', 1, None]", {"q": str, "a": Literal["x", 1, None]}),
        ("q -> a: tuple[int, ...]", {"q": str, "a": tuple[int, ...]}),
        ("q -> a: dict[str, list[Any]]", {"q": str, "a": dict[str, list[Any]]}),
        ("q -> a: datetime.date", {"q": str, "a": datetime.date}),
        ("über -> größe: float", {"über": str, "größe": float}),
        ("p: Person -> c: Color", {"p": Person, "c": Color}),
    ],
)
def test_string_form_gives_ordered_typed_fields(
    text: str, expected: dict[str, Any]
) -> None:
    signature = Signature(text, custom_types={"Person": Person, "Color": Color})
    assert types_of(signature) == expected
    assert list(signature.fields) == list(expected)


@pytest.mark.parametrize(
    ("text", "position", "problem"),
    [
        ("question answer", 15, "no '->'"),
        ("a -> b -> c", 7, "second '->'"),
        ("q -> a: foo", 8, "unknown type foo"),
        ("größe: foo -> a", 7, "unknown type foo"),
        ("q,\nr: foo -> a", 6, "unknown type foo"),
        ("q -> 1a", 5, "invalid decimal literal"),
        ("q -> a: str[int]", 8, "str[int] is no type"),
        ("q -> a: 5", 8, "5 is not a type"),
        ("q -> a: Union", 8, "Union is not a type"),
        ("q -> a: dict[str, int", 21, "not finished"),
        ("q -> a: Callable[[int], str]", 17, "[int] is no type"),
        ("q -> _a", 5, "underscore"),
        ("q -> q", 5, "an input and an output"),
        ("q -> a: os.path", 8, "unknown type os.path"),
        ("q): pass\ndef g(x -> a", 0, "no list of fields"),
    ],
)
def test_bad_string_says_where_and_what(text: str, position: int, problem: str) -> None:
    with pytest.raises(SignatureSyntaxError) as caught:
        Signature(text)
    assert caught.value.position == position
    assert problem in caught.value.problem
    caret = str(caught.value).splitlines()[-2]
    line_start = text.rfind("\n", 0, position) + 1
    assert caret == "  " + " " * (position - line_start) + "^"


def test_types_are_shown_as_one_writes_them() -> None:
    signature = Signature("q -> a: typing.List[int], b: Optional[Literal['x']]")
    assert str(signature) == (
        "Signature(\"q -> a: list[int], b: Literal['x'] | None\")"
    )


def test_near_miss_of_a_type_name_is_suggested() -> None:
    with pytest.raises(SignatureSyntaxError, match="Did you mean list"):
        Signature("q -> a: lst[str]")


def test_type_names_do_not_import_anything() -> None:
    with pytest.raises(SignatureSyntaxError, match="unknown type"):
        Signature("q -> a: subprocess.Popen")


def test_class_form_reads_docstring_types_and_constraints() -> None:
    signature = Triage()
    assert signature.instructions == "Sort a support ticket.\n\nBe kind."
    assert list(signature.input_fields) == ["ticket", "tone"]
    assert signature.output_fields["category"].annotation == Literal["bug", "question"]
    assert signature.output_fields["urgency"].constraints == {"ge": 0, "le": 10}
    assert signature.class_name == "Triage"
    assert signature == to_signature(Triage)


def test_class_without_field_role_is_refused() -> None:
    with pytest.raises(SignatureError, match="'answer' of Bad has no role"):

        class Bad(Signature):  # pyright: ignore[reportUnusedClass]
            answer: str


def test_edits_give_new_signatures_and_leave_the_old() -> None:
    base = Signature("question, context -> answer: int", "Answer it.")
    edited = (
        base.prepend("reasoning", OutputField(desc="why"))
        .append("hint", InputField(), str)
        .insert(1, "mid", InputField(), list[str])
        .delete("context")
        .delete("nothing")
        .with_updated_fields("answer", float, desc="a number")
        .append_instructions("Briefly.")
    )
    assert list(edited.input_fields) == ["question", "mid", "hint"]
    assert list(edited.output_fields) == ["reasoning", "answer"]
    assert edited.output_fields["answer"].annotation is float
    assert edited.output_fields["answer"].desc == "a number"
    assert edited.instructions == "Answer it.\n\nBriefly."
    assert base == Signature("question, context -> answer: int", "Answer it.")


def test_edits_work_on_the_class_too() -> None:
    assert list(Triage.append("note", OutputField()).output_fields)[-1] == "note"
    assert Triage.with_instructions("Other.").instructions == "Other."
    assert Triage().instructions.startswith("Sort")


@pytest.mark.parametrize("index", [3, -4])
def test_insert_out_of_range_is_refused(index: int) -> None:
    with pytest.raises(SignatureError, match="has 2 input fields"):
        Signature("a, b -> c").insert(index, "d", InputField())


def test_default_instructions_follow_the_fields() -> None:
    edited = Signature("question -> answer").prepend("reasoning", OutputField())
    assert "`reasoning`" in edited.instructions


def test_inputs_are_checked_converted_and_completed() -> None:
    signature = Signature(
        "p: Person, n: int, free -> a", custom_types={"Person": Person}
    )
    checked = signature.check_inputs(
        {"free": ["any"], "n": "5", "p": {"name": "Ann", "age": 3}}
    )
    assert checked == {"p": Person(name="Ann", age=3), "n": 5, "free": ["any"]}
    assert Triage().check_inputs({"ticket": "t"}) == {"ticket": "t", "tone": "calm"}


def test_missing_input_is_named() -> None:
    with pytest.raises(MissingInputError, match=r"'ticket'.*given: tone") as caught:
        Triage().check_inputs({"tone": "x"})
    assert caught.value.field == "ticket"


def test_unknown_input_is_named_with_a_suggestion() -> None:
    with pytest.raises(UnknownInputError, match="did you mean 'ticket'"):
        Triage().check_inputs({"ticket": "t", "tickt": "t"})


def test_input_of_wrong_type_is_named_with_its_value() -> None:
    with pytest.raises(InputTypeError, match="must be int, got 'many'") as caught:
        Signature("n: int -> a").check_inputs({"n": "many"})
    assert caught.value.value == "many"


def test_input_constraint_is_enforced() -> None:
    signature = Signature("q -> a").append("n", InputField(ge=1), int)
    with pytest.raises(InputTypeError, match="greater than or equal to 1"):
        signature.check_inputs({"q": "x", "n": 0})


def test_field_that_has_no_validator_is_refused() -> None:
    class Odd:
        pass

    with pytest.raises(SignatureError, match="not a type that a field can have"):
        Signature("q -> a").append("b", OutputField(), Odd)


def test_fields_given_twice_are_refused() -> None:
    with pytest.raises(SignatureError, match="twice: a"):
        Signature(fields=[Field("a", "input"), Field("a", "output")])


@pytest.mark.parametrize(
    "form",
    [
        "List[{}]",
        "list[{}]",
        "Optional[{}]",
        "int | {}",
        "Union[int, {}]",
        "dict[str, {}]",
        "Annotated[{}, 1]",
        "Type[{}]",
        "tuple[{}, ...]",
        "list[list[{}]]",
    ],
)
def test_text_in_a_type_is_never_run(form: str, tmp_path: Path) -> None:
    trap = tmp_path / "run"
    code = f'\'__import__("pathlib").Path("{trap}").touch()\''
    with pytest.raises(SignatureSyntaxError):
        Signature(f"q -> a: {form.format(code)}")
    assert not trap.exists()


def test_a_type_in_quotes_is_read_by_the_same_grammar() -> None:
    field = Signature("q -> a: list['int']").output_fields["a"]
    assert field.annotation == list[int]


@pytest.mark.parametrize(
    "text",
    [
        "q -> a: Literal[()]",
        "q -> a: Annotated[int, Field(ge='x')]",
        "q -> a: Annotated[str, Field(pattern='(')]",
        "q -> a: tuple[...]",
        "q -> a: " + "int|" * 20_000 + "int",
        "q -> a: " + "-" * 99_000 + "1",
        "q -> a: " + "x" * 200_000,
    ],
)
def test_a_signature_that_cannot_be_is_refused_by_a_typed_error(text: str) -> None:
    with pytest.raises(SignatureError):
        Signature(text)


@pytest.mark.parametrize("value", [5, b"a->b", ["a"], {"a": int}, object(), int])
def test_a_signature_of_something_else_says_what_it_takes(value: Any) -> None:
    with pytest.raises(SignatureError, match='give a string such as "question'):
        Signature(value)
    with pytest.raises(SignatureError, match="give a string"):
        Predict(value)
