"""One field's value as text for the model, and the model's text as a value.

Reading follows dspy wherever dspy reads a value. Only when that fails are the model's
usual slips forgiven (`Yes` for `Literal['yes', 'no']`, `1,234` for an int); each one is
noted, so that a caller can see what was forgiven.
"""

import ast
import enum
import inspect
import json
import re
from collections.abc import Sequence
from typing import Literal, cast, get_args, get_origin

import pydantic
from pydantic_core import to_jsonable_python

from dspex.modules.fields import Field, FieldType
from dspex.modules.plain import is_list
from dspex.modules.repair import repair
from dspex.modules.repair_parser import UnrepairableError
from dspex.modules.signature import first_problem
from dspex.modules.type_names import is_union

_NUMBER_WITH_COMMAS = re.compile(r"[-+]?\d{1,3}(,\d{3})+(\.\d+)?")
_DECORATION = "`*_\"' \t\n"


class UnreadableValueError(ValueError):
    """A text is no value of the field's type, or breaks a constraint."""


def show_value(field: Field, value: object) -> str:
    """Give a value as the text that stands under its field's marker."""
    if isinstance(value, str):
        return value
    if field.annotation is str and is_list(value):
        return _passages(value)
    plain = to_plain(value)
    if isinstance(plain, dict | list):
        return json.dumps(plain, ensure_ascii=False)
    return str(plain)


def to_plain(
    value: object, *, inf_nan: Literal["constants", "null"] = "constants"
) -> object:
    """Give a value as JSON types; what has no JSON form becomes its `str`.

    `inf_nan` says what becomes of the floats inside that JSON does not have.
    """
    if value is None or (
        isinstance(value, str | int | float) and not isinstance(value, enum.Enum)
    ):
        return value
    try:
        return cast(
            object, to_jsonable_python(value, inf_nan_mode=inf_nan, fallback=str)
        )
    except ValueError:  # what pydantic's serializer raises for odd contents
        return str(value)


def _passages(values: Sequence[object]) -> str:
    if not values:
        return "(none)"
    texts = (v if isinstance(v, str) else str(to_plain(v)) for v in values)
    return "\n".join(f"[{i}] {text}" for i, text in enumerate(texts, start=1))


def read_value(field: Field, value: object, notes: list[str]) -> object:
    """Give the value of `field` that a model wrote, as text or as parsed JSON.

    What had to be forgiven is added to `notes`.

    Raises:
        UnreadableValueError: it is no value of the type, or breaks a constraint.
    """
    try:
        found = _read_as_dspy(field, value)
    except ValueError as error:
        forgiven = _forgive(field, value, notes)
        if forgiven is None:
            raise UnreadableValueError(_problem(error)) from None
        (found,) = forgiven
    if not field.constraints:
        return found
    try:
        return field.validator.validate_python(found)
    except pydantic.ValidationError as error:
        notes.append("constraint")
        raise UnreadableValueError(first_problem(error)) from None


def _problem(error: ValueError) -> str:
    if isinstance(error, pydantic.ValidationError):
        return first_problem(error)
    return str(error)


def _read_as_dspy(field: Field, value: object) -> object:
    annotation = field.annotation
    if annotation is str:
        return str(value)
    if inspect.isclass(annotation) and issubclass(annotation, enum.Enum):
        return _enum_member(annotation, value)
    origin: object = get_origin(annotation)
    if origin is Literal:
        allowed = get_args(annotation)
        if _is_in(value, allowed):
            return value
        if isinstance(value, str):
            value = _unwrap_literal(value)
            if value in allowed:
                return value
    validate = field.plain_validator.validate_python
    if not isinstance(value, str) or _is_text_or_none(annotation):
        return validate(value)
    try:
        found = _read_json(value)
    except UnrepairableError as error:
        try:
            return validate(value)
        except pydantic.ValidationError:
            raise UnreadableValueError(str(error)) from None
    return validate(found)


def _is_in(value: object, allowed: tuple[object, ...]) -> bool:
    try:
        return value in allowed
    except (TypeError, ValueError):  # a value that compares oddly
        return False


def _unwrap_literal(text: str) -> str:
    """`Literal[yes]`, `'yes'` and `Literal['yes']` all stand for `yes`."""
    text = text.strip()
    if text.startswith(("Literal[", "str[")) and text.endswith("]"):
        text = text[text.find("[") + 1 : -1]
    if len(text) > 1 and text[0] == text[-1] and text[0] in "\"'":
        text = text[1:-1]
    return text


def _is_text_or_none(annotation: FieldType) -> bool:
    args = get_args(annotation)
    return is_union(annotation) and type(None) in args and str in args


def _read_json(text: str) -> object:
    """Read JSON, or what was meant to be; a text that is neither stands for itself.

    Raises:
        UnrepairableError: it is neither, as far as can be told in reasonable time.
    """
    try:
        found: object = repair(text)
        if found == "" and text != "":
            found = ast.literal_eval(text)
    except UnrepairableError:
        raise
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return text
    return found


def _enum_member(cls: type[enum.Enum], value: object) -> enum.Enum:
    for member in cls:
        if member.value == value:
            return member
    if isinstance(value, str) and value in cls.__members__:
        return cls[value]
    names = ", ".join(str(member.value) for member in cls)
    raise UnreadableValueError(f"not one of {names}")


def _forgive(field: Field, value: object, notes: list[str]) -> tuple[object] | None:
    """Read what dspy cannot, in a one-tuple, or give None."""
    if not isinstance(value, str):
        return None
    annotation = field.annotation
    text = value.strip(_DECORATION).removesuffix(".").rstrip(_DECORATION)
    origin: object = get_origin(annotation)
    if origin is Literal:
        return _one_of(text, {str(v): v for v in get_args(annotation)}, notes)
    if inspect.isclass(annotation) and issubclass(annotation, enum.Enum):
        by_name: dict[str, object] = dict(annotation.__members__)
        return _one_of(text, by_name | {str(m.value): m for m in annotation}, notes)
    if annotation in (int, float) and _NUMBER_WITH_COMMAS.fullmatch(text):
        text, note = text.replace(",", ""), "number-commas"
    elif annotation in (int, float, bool) and text != value:
        note = "decorated-value"
    else:
        return None
    try:
        found = field.plain_validator.validate_python(text)
    except pydantic.ValidationError:
        return None
    notes.append(note)
    return (found,)


def _one_of(
    text: str, choices: dict[str, object], notes: list[str]
) -> tuple[object] | None:
    if text in choices:
        notes.append("decorated-value")
        return (choices[text],)
    close = [v for name, v in choices.items() if name.casefold() == text.casefold()]
    if not close or any(v != close[0] for v in close):
        return None
    notes.append("choice-case")
    return (close[0],)
