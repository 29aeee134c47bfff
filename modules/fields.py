"""Fields: the named, typed inputs and outputs of a signature."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from enum import Enum
from functools import cached_property
from typing import Annotated, Any, Final, Literal, TypeAlias

import pydantic

from dspex.modules.errors import ConfigError
from dspex.modules.type_names import allows_none, type_name

Role: TypeAlias = Literal["input", "output"]
# A typing form (int, list[str], Literal["a"]): no static type covers them all.
FieldType: TypeAlias = Any

CONSTRAINTS: Final = (
    "gt",
    "ge",
    "lt",
    "le",
    "multiple_of",
    "min_length",
    "max_length",
    "pattern",
    "allow_inf_nan",
)


class Missing(Enum):
    """The type of `MISSING`, which stands for no value where None is one."""

    MISSING = "missing"


MISSING: Final = Missing.MISSING


# Not slotted: the validator is built once, when it is first used.
@dataclass(frozen=True)
class Field:
    """One field of a signature.

    `desc` tells the model what belongs there; `typed` is False when the signature gave
    no type, in which case an input takes any value. `prefix` is kept for saved dspy
    programs and goes into no prompt.
    """

    name: str
    role: Role
    annotation: FieldType = str
    desc: str | None = None
    prefix: str | None = None
    default: object = MISSING
    default_factory: Callable[[], object] | None = None
    constraints: Mapping[str, object] = field(default_factory=dict[str, object])
    typed: bool = True

    @property
    def is_required(self) -> bool:
        """Whether there is no default for it."""
        return self.default is MISSING and self.default_factory is None

    @property
    def is_optional(self) -> bool:
        """Whether it may be left out: it has a default, or its type allows None."""
        return not self.is_required or allows_none(self.annotation)

    def get_default(self) -> object:
        """Give the value of a field that was left out: its default, else None."""
        if self.default_factory is not None:
            return self.default_factory()
        return None if self.default is MISSING else self.default

    @property
    def type_name(self) -> str:
        """The type as one writes it, such as `list[str]`."""
        return type_name(self.annotation)

    @cached_property
    def constrained(self) -> FieldType:
        """The annotation with its constraints, as pydantic reads it."""
        if not self.constraints:
            return self.annotation
        # Any: the names were checked when the field was made.
        keywords: dict[str, Any] = dict(self.constraints)
        return Annotated[self.annotation, pydantic.Field(**keywords)]

    @cached_property
    def validator(self) -> "pydantic.TypeAdapter[Any]":  # Any: the field's own type
        """Pydantic's validator of the type and its constraints, in lax mode."""
        return pydantic.TypeAdapter(self.constrained)

    @cached_property
    def plain_validator(self) -> "pydantic.TypeAdapter[Any]":  # Any: as above
        """The validator of the type alone."""
        if not self.constraints:
            return self.validator
        return pydantic.TypeAdapter(self.annotation)

    @property
    def label(self) -> str:
        """What dspy calls the prefix: `Search Query:` for `search_query`."""
        return infer_label(self.name) if self.prefix is None else self.prefix

    def named(self, name: str, annotation: FieldType | None = None) -> "Field":
        """Give the same field under another name, with another type if given."""
        if annotation is None:
            return replace(self, name=name)
        return replace(self, name=name, annotation=annotation, typed=True)


def infer_label(name: str) -> str:
    """Give a name as words and a colon, the way saved dspy programs spell it."""
    text = re.sub(r"(.)([A-Z][a-z]+)", r"\1_\2", name)
    text = re.sub(r"([a-z0-9])([A-Z])", r"\1_\2", text)
    text = re.sub(r"([a-zA-Z])(\d)", r"\1_\2", text)
    text = re.sub(r"(\d)([a-zA-Z])", r"\1_\2", text)
    words = (word if word.isupper() else word.capitalize() for word in text.split("_"))
    return " ".join(words) + ":"


def _field(
    role: Role,
    desc: str | None,
    default: object,
    default_factory: Callable[[], object] | None,
    constraints: Mapping[str, object],
) -> Field:
    if default is not MISSING and default_factory is not None:
        raise ConfigError("default", default, "and default_factory exclude each other")
    for name in constraints:
        if name not in CONSTRAINTS:
            known = ", ".join(CONSTRAINTS)
            raise ConfigError(
                name, constraints[name], f"is no constraint; they are {known}"
            )
    return Field(
        name="",
        role=role,
        desc=desc,
        default=default,
        default_factory=default_factory,
        constraints=dict(constraints),
        typed=False,
    )


# Any: in a class body the field stands where its value's type is declared, and as
# the names of types that users know from dspy.
def InputField(  # noqa: N802
    *,
    desc: str | None = None,
    default: object = MISSING,
    default_factory: Callable[[], object] | None = None,
    **constraints: object,
) -> Any:
    """Declare an input in the body of a signature class.

    `constraints` are pydantic's: gt, ge, lt, le, multiple_of, min_length, max_length,
    pattern. A call that breaks one fails before the model is asked.

    Raises:
        ConfigError: an unknown constraint, or two defaults.
    """
    return _field("input", desc, default, default_factory, constraints)


def OutputField(  # noqa: N802
    *,
    desc: str | None = None,
    default: object = MISSING,
    default_factory: Callable[[], object] | None = None,
    **constraints: object,
) -> Any:
    """Declare an output in the body of a signature class.

    The model is told the constraints, and an answer that breaks one is not accepted
    (dspy only tells them). A default stands in for an output that the model left out.

    Raises:
        ConfigError: an unknown constraint, or two defaults.
    """
    return _field("output", desc, default, default_factory, constraints)
