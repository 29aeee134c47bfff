"""Signatures: what a module takes and gives, and what the model is told to do.

A signature is a value: ordered, typed input and output fields and the instructions.
Every edit gives a new one. It is written as a string,

    Signature("ticket -> category: Literal['bug', 'question'], urgency: int")

or as a class, whose docstring is the instructions:

    class Triage(Signature):
        '''Sort a support ticket.'''

        ticket: str = InputField(desc="what the customer wrote")
        urgency: int = OutputField(ge=0, le=10)

Wherever a signature is expected, the string and the class do as well.
"""

import inspect
from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import cached_property
from typing import Any, ClassVar, TypeAlias, TypeGuard, cast

import pydantic

from dspex.modules.errors import (
    InputTypeError,
    MissingInputError,
    SignatureError,
    UnknownInputError,
    shorten,
)
from dspex.modules.fields import Field, FieldType
from dspex.modules.on_both import OnBoth, ValueOnBoth
from dspex.modules.signature_class import read_fields
from dspex.modules.signature_string import check_type, parse_signature

# Any: inputs have the types that the signature gives them.
Inputs: TypeAlias = Mapping[str, Any]


class Signature:
    """Typed inputs and outputs, and instructions; immutable.

    `custom_types` maps the names of your own types in the string to the types.
    `fields` is the other way to build one: the fields in order.

    Raises:
        SignatureSyntaxError: the string does not parse; the message shows where.
        SignatureError: two fields of one name, or a type no field can have.
    """

    _declared: ClassVar[tuple[Field, ...]] = ()
    _declared_instructions: ClassVar[str | None] = None

    def __init__(
        self,
        text: str | None = None,
        instructions: str | None = None,
        *,
        custom_types: Mapping[str, FieldType] | None = None,
        fields: Iterable[Field] | None = None,
        name: str | None = None,
    ) -> None:
        if not _is_text(text):
            raise SignatureError(
                f"a signature cannot be made of {shorten(text)}: give a string "
                'such as "question -> answer", or fields=[...]'
            )
        if text is not None:
            found = parse_signature(text, custom_types or {})
        elif fields is not None:
            found = tuple(fields)
        elif type(self) is not Signature:
            found = self._declared
            instructions = instructions or self._declared_instructions
        else:
            raise SignatureError(
                'an empty signature: give a string such as "question -> answer"'
            )
        inputs = tuple(field for field in found if field.role == "input")
        outputs = tuple(field for field in found if field.role == "output")
        self._fields: Mapping[str, Field] = {f.name: f for f in (*inputs, *outputs)}
        if len(self._fields) != len(found):
            names = [field.name for field in found]
            twice = sorted({name for name in names if names.count(name) > 1})
            raise SignatureError(f"fields given twice: {', '.join(twice)}")
        self._instructions = (
            None if instructions is None else inspect.cleandoc(instructions)
        )
        self._name = name or type(self).__name__

    def __init_subclass__(cls) -> None:
        """Read the fields of a signature class from its body."""
        super().__init_subclass__()
        cls._declared = (*cls._declared, *read_fields(cls))
        if cls.__doc__:
            cls._declared_instructions = cls.__doc__

    # --- what it says

    @property
    def class_name(self) -> str:
        """The name of its class; `Signature` for one written as a string."""
        return self._name

    @ValueOnBoth
    def fields(self) -> Mapping[str, Field]:
        """Give all fields by name, inputs first, in order."""
        return self._fields

    @ValueOnBoth
    def input_fields(self) -> Mapping[str, Field]:
        """Give the inputs by name, in order."""
        return {n: f for n, f in self._fields.items() if f.role == "input"}

    @ValueOnBoth
    def output_fields(self) -> Mapping[str, Field]:
        """Give the outputs by name, in order."""
        return {n: f for n, f in self._fields.items() if f.role == "output"}

    @ValueOnBoth
    def instructions(self) -> str:
        """Give what the model is told to do; a sentence of the field names if unset."""
        return self._instructions or self._default_instructions()

    @ValueOnBoth
    def has_instructions(self) -> bool:
        """Tell whether somebody wrote the instructions."""
        return bool(self._instructions)

    def _default_instructions(self) -> str:
        inputs = _listing(self.input_fields)
        outputs = _listing(self.output_fields)
        if not inputs:
            return f"Write {outputs}."
        return f"From {inputs}, work out {outputs}."

    @ValueOnBoth
    def signature(self) -> str:
        """Give the field names: `question, context -> answer`."""
        inputs, outputs = ", ".join(self.input_fields), ", ".join(self.output_fields)
        return f"{inputs} -> {outputs}".strip()

    def __repr__(self) -> str:
        inputs = ", ".join(map(_declare, self.input_fields.values()))
        outputs = ", ".join(map(_declare, self.output_fields.values()))
        return f'Signature("{f"{inputs} -> {outputs}".strip()}")'

    def __eq__(self, other: object) -> bool:
        if self is other:
            return True
        if isinstance(other, type) and issubclass(other, Signature):
            other = other()
        if not isinstance(other, Signature):
            return NotImplemented
        mine, theirs = list(self._fields.values()), list(other._fields.values())
        return mine == theirs and self.instructions == other.instructions

    def __hash__(self) -> int:
        return self._hash

    @cached_property
    def _hash(self) -> int:
        return hash((tuple(self._fields), self.instructions))

    # --- edits: each gives a new signature

    @OnBoth
    def with_instructions(self, instructions: str) -> "Signature":
        """Give the same fields with other instructions."""
        return self._with(self._fields.values(), instructions)

    @OnBoth
    def append_instructions(self, instructions: str) -> "Signature":
        """Give the same fields with a further paragraph of instructions."""
        return self._with(
            self._fields.values(), f"{self.instructions}\n\n{instructions}"
        )

    @OnBoth
    def with_updated_fields(
        self,
        name: str,
        type_: FieldType | None = None,
        *,
        desc: str | None = None,
        prefix: str | None = None,
    ) -> "Signature":
        """Give a signature whose field `name` has another type or description.

        Raises:
            SignatureError: there is no such field, or no such type.
        """
        if name not in self._fields:
            known = ", ".join(self._fields)
            raise SignatureError(
                f"no field {name!r} in {self.signature!r}; it has {known}"
            )
        field = self._fields[name]
        if type_ is not None:
            check_type(name, type_)
            field = replace(field, annotation=type_, typed=True)
        if desc is not None:
            field = replace(field, desc=desc)
        if prefix is not None:
            field = replace(field, prefix=prefix)
        return self._with(
            (field if n == name else f for n, f in self._fields.items()),
            self._instructions,
        )

    @OnBoth
    def insert(
        self, index: int, name: str, field: Field, type_: FieldType | None = None
    ) -> "Signature":
        """Give a signature with one more field, at `index` of the inputs or outputs.

        A negative index counts from the end: -1 appends. `field` is what `InputField`
        or `OutputField` gave. A field that was there under this name is replaced.

        Raises:
            SignatureError: the index is out of range, or the type is none.
        """
        added = field.named(name, type_)
        check_type(name, added.annotation)
        same = [f for f in self._fields.values() if f.role == added.role]
        other = [f for f in self._fields.values() if f.role != added.role]
        place = index + len(same) + 1 if index < 0 else index
        if not 0 <= place <= len(same):
            raise SignatureError(
                f"cannot insert {name!r} at {index}: {self.signature!r} has "
                f"{len(same)} {added.role} fields"
            )
        kept = [f for f in same[:place] if f.name != name]
        rest = [f for f in same[place:] if f.name != name]
        return self._with([*kept, added, *rest, *other], self._instructions)

    @OnBoth
    def prepend(
        self, name: str, field: Field, type_: FieldType | None = None
    ) -> "Signature":
        """Give a signature with one more field, before the others of its role."""
        return self.insert(0, name, field, type_)

    @OnBoth
    def append(
        self, name: str, field: Field, type_: FieldType | None = None
    ) -> "Signature":
        """Give a signature with one more field, after the others of its role."""
        return self.insert(-1, name, field, type_)

    @OnBoth
    def delete(self, name: str) -> "Signature":
        """Give a signature without the field; the same one if it has none such."""
        return self._with(
            (f for n, f in self._fields.items() if n != name), self._instructions
        )

    def _with(self, fields: Iterable[Field], instructions: str | None) -> "Signature":
        return Signature(fields=fields, instructions=instructions, name=self._name)

    # --- inputs of a call

    def check_inputs(self, inputs: Inputs) -> dict[str, Any]:  # Any: as declared
        """Give the inputs as the signature declares them, in its order.

        Defaults are filled in, values are converted as pydantic does in lax mode
        ("5" for an int, a dict for a model); an untyped field takes any value.

        Raises:
            UnknownInputError: a name that is no input.
            MissingInputError: an input without default is not given.
            InputTypeError: a value of another type, or one that breaks a constraint.
        """
        for name in inputs:
            if name not in self.input_fields:
                raise UnknownInputError(self.signature, name, tuple(self.input_fields))
        checked: dict[str, Any] = {}  # Any: as declared
        for name, field in self.input_fields.items():
            if name in inputs:
                checked[name] = self._check_input(field, inputs[name])
            elif not field.is_required:
                checked[name] = field.get_default()
            else:
                raise MissingInputError(self.signature, name, tuple(inputs))
        return checked

    def _check_input(self, field: Field, value: object) -> object:
        if not field.typed and not field.constraints:
            return value
        try:
            return field.validator.validate_python(value)
        except pydantic.ValidationError as error:
            raise InputTypeError(
                self.signature,
                field.name,
                expected=field.type_name,
                value=value,
                problem=first_problem(error),
            ) from None


SignatureLike: TypeAlias = str | Signature | type[Signature]


def to_signature(
    signature: SignatureLike,
    *,
    custom_types: Mapping[str, FieldType] | None = None,
) -> Signature:
    """Give the signature that a string or a signature class stands for.

    Raises:
        SignatureError: it stands for none.
    """
    if isinstance(signature, Signature):
        return signature
    if _is_class(signature):
        return signature()
    # Whatever else it is, it is refused there.
    return Signature(cast("str", signature), custom_types=custom_types)


def first_problem(error: pydantic.ValidationError) -> str:
    """Give the first problem of a validation as one line: where, and what."""
    first = error.errors(include_url=False, include_context=False)[0]
    where = ".".join(str(part) for part in first["loc"])
    return f"{where}: {first['msg']}" if where else first["msg"]


def _is_text(value: object) -> bool:
    return value is None or isinstance(value, str)


def _is_class(value: object) -> TypeGuard[type[Signature]]:
    return isinstance(value, type) and issubclass(value, Signature)


def _listing(names: Iterable[str]) -> str:
    quoted = [f"`{name}`" for name in names]
    if len(quoted) <= 1:
        return "".join(quoted)
    return f"{', '.join(quoted[:-1])} and {quoted[-1]}"


def _declare(field: Field) -> str:
    return f"{field.name}: {field.type_name}" if field.typed else field.name
