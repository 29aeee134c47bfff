"""The string form of a signature: `question, context: list[str] -> answer: float`.

The grammar is dspy's: one arrow, on each side a Python parameter list whose annotations
are types; a field without a type is a `str`. A default is allowed and ignored, as in
dspy. Unlike dspy, no name is searched in the caller's frames and nothing is imported by
name: what is neither builtin nor from `typing` comes as `custom_types`.
"""

import ast
import inspect
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import (
    Literal,
    NoReturn,
    Optional,
    TypeAlias,
    Union,
    get_args,
    get_origin,
)

import pydantic
import pydantic_core

from dspex.modules.errors import SignatureError, SignatureSyntaxError
from dspex.modules.fields import Field, FieldType
from dspex.modules.type_lookup import UnknownTypeNameError, find_type

_EXAMPLE = 'Write it like "question, context: list[str] -> answer: str, score: float".'
_LITERAL = "Values belong in Literal[...]; types are written without quotes."
_LONGEST = 100_000
_PREFIX = "def f("

_Side: TypeAlias = Literal["input", "output"]


def parse_signature(
    text: str, custom_types: Mapping[str, FieldType]
) -> tuple[Field, ...]:
    """Give the fields that `text` declares, inputs first.

    Raises:
        SignatureSyntaxError: the text does not parse, or names an unknown type.
        SignatureError: an input and an output have the same name.
    """
    if len(text) > _LONGEST:
        problem = f"it is longer than {_LONGEST} characters"
        raise SignatureSyntaxError(text[:80], 0, problem, _EXAMPLE)
    arrow = text.find("->")
    if arrow < 0:
        raise SignatureSyntaxError(text, len(text), "there is no '->'", _EXAMPLE)
    second = text.find("->", arrow + 2)
    if second >= 0:
        raise SignatureSyntaxError(text, second, "there is a second '->'", _EXAMPLE)
    inputs = _Parser(text, 0, arrow, custom_types).fields("input")
    outputs = _Parser(text, arrow + 2, len(text), custom_types).fields("output")
    for name in inputs:
        if name in outputs:
            raise SignatureSyntaxError(
                text,
                _find_name(text, name, arrow),
                f"{name!r} is an input and an output",
                "Give one of them another name.",
            )
    return (*inputs.values(), *outputs.values())


def _find_name(text: str, name: str, start: int) -> int:
    position = text.find(name, start)
    return start if position < 0 else position


@dataclass(frozen=True, slots=True)
class _Parser:
    """Parses `text[start:end]`, one side of the arrow."""

    text: str
    start: int
    end: int
    custom_types: Mapping[str, FieldType]

    @property
    def side(self) -> str:
        return self.text[self.start : self.end]

    def fields(self, role: _Side) -> dict[str, Field]:
        fields: dict[str, Field] = {}
        for arg in self._arguments():
            if arg.arg.startswith("_"):
                self._fail(arg, f"{arg.arg!r} starts with an underscore", "Drop it.")
            # As in dspy, a name given twice is one field, and its last type counts.
            if arg.annotation is None:
                fields[arg.arg] = Field(arg.arg, role, str, typed=False)
            else:
                fields[arg.arg] = Field(arg.arg, role, self._type_of(arg.annotation))
        return fields

    def _arguments(self) -> list[ast.arg]:
        source = f"{_PREFIX}{self.side}): pass"
        try:
            body = ast.parse(source).body
        except SyntaxError as error:
            position = self._position(error.lineno or 1, (error.offset or 1) - 1)
            problem = error.msg[:1].lower() + error.msg[1:]
            if position == self.end:
                problem = "a field or a bracket is not finished"
            raise SignatureSyntaxError(self.text, position, problem, _EXAMPLE) from None
        except (RecursionError, MemoryError):
            raise SignatureSyntaxError(
                self.text, self.start, "it is nested too deeply", _EXAMPLE
            ) from None
        except ValueError as error:  # a null byte
            raise SignatureSyntaxError(
                self.text, self.start, str(error), _EXAMPLE
            ) from None
        function = body[0]
        if len(body) != 1 or not isinstance(function, ast.FunctionDef):
            raise SignatureSyntaxError(
                self.text, self.start, "this is no list of fields", _EXAMPLE
            )
        if function.returns is not None or not isinstance(function.body[0], ast.Pass):
            raise SignatureSyntaxError(
                self.text, self.start, "this is no list of fields", _EXAMPLE
            )
        return function.args.args

    def _position(self, line: int, column: int) -> int:
        """Translate a place in the parsed source to an index in the text."""
        lines = self.side.split("\n")
        if line == 1:
            offset = max(0, column - len(_PREFIX))
        else:
            offset = sum(len(before) + 1 for before in lines[: line - 1]) + column
        return min(self.start + offset, self.end)

    def _position_of(self, node: ast.arg | ast.expr) -> int:
        # ast counts columns in UTF-8 bytes.
        source = f"{_PREFIX}{self.side}".split("\n")[node.lineno - 1]
        column = len(source.encode()[: node.col_offset].decode())
        return self._position(node.lineno, column)

    def _fail(self, node: ast.arg | ast.expr, problem: str, remedy: str) -> NoReturn:
        raise SignatureSyntaxError(self.text, self._position_of(node), problem, remedy)

    def _type_of(self, node: ast.expr) -> FieldType:
        found = self._expression(node)
        if found is None:  # dspy: `a: None` is an untyped field
            return str
        if not is_type(found):
            self._fail(
                node,
                f"{ast.unparse(node)} is not a type that a field can have",
                "Use a builtin, a name from typing, or pass custom_types={...}.",
            )
        return found

    def _type_argument(self, node: ast.expr) -> FieldType:
        """Read a type inside brackets or a union.

        Text there would become a forward reference, which typing and pydantic
        evaluate as code: it is read by this same grammar instead.
        """
        if not isinstance(node, ast.Constant) or node.value in (None, ...):
            return self._expression(node)
        if not isinstance(node.value, str):
            self._fail(node, f"{ast.unparse(node)} is a value, no type", _LITERAL)
        if node.value.isidentifier():
            return self._quoted_name(node.value)
        try:
            inside = ast.parse(node.value, mode="eval").body
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            self._fail(node, f"{ast.unparse(node)} is no type", _LITERAL)
        for each in ast.walk(inside):  # errors point at the text as a whole
            if isinstance(each, ast.expr):
                each.lineno, each.col_offset = node.lineno, node.col_offset
        return self._type_argument(inside)

    def _quoted_name(self, name: str) -> FieldType:
        try:
            return find_type(name, self.custom_types)
        except UnknownTypeNameError:
            # As in dspy, where it fails when the field is used. A mere name is
            # looked up, not run.
            return typing.ForwardRef(name)

    def _expression(self, node: ast.expr) -> FieldType:  # noqa: RET503
        if isinstance(node, ast.Constant):
            return node.value
        if isinstance(node, ast.Name | ast.Attribute):
            return self._name(node)
        if isinstance(node, ast.Tuple):
            return tuple(self._type_argument(element) for element in node.elts)
        if isinstance(node, ast.Subscript):
            return self._subscript(node)
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr):
            return self._union(node)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            return self._constraint(node)
        self._fail(
            node,
            f"{ast.unparse(node)} is no type",
            "Types are names, name[...] and A | B; for more, write a Signature class.",
        )

    def _name(self, node: ast.Name | ast.Attribute) -> FieldType:
        name = ast.unparse(node)
        try:
            return find_type(name, self.custom_types)
        except UnknownTypeNameError as error:
            close = get_close_matches(name, error.known, n=1)
            hint = f"Did you mean {close[0]}? " if close else ""
            self._fail(
                node,
                f"unknown type {name}",
                f"{hint}Your own types come by name: "
                f'Signature("...", custom_types={{"{name}": ...}}).',
            )

    def _subscript(self, node: ast.Subscript) -> FieldType:
        origin = self._expression(node.value)
        inside = node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]
        if origin is Literal:
            args = tuple(self._expression(element) for element in inside)
        elif origin is typing.Annotated:
            metadata = (self._expression(element) for element in inside[1:])
            args = (self._type_argument(inside[0]), *metadata)
        else:
            args = tuple(self._type_argument(element) for element in inside)
        try:
            if origin is Optional:
                (only,) = args
                return Optional[only]  # noqa: UP045
            return origin[args]
        except (TypeError, ValueError) as error:
            self._fail(node, f"{ast.unparse(node)} is no type: {error}", _EXAMPLE)

    def _union(self, node: ast.BinOp) -> FieldType:
        left, right = self._type_argument(node.left), self._type_argument(node.right)
        try:
            return Union[left, right]  # noqa: UP007
        except TypeError as error:
            self._fail(node, f"{ast.unparse(node)} is no type: {error}", _EXAMPLE)

    def _constraint(self, node: ast.Call) -> FieldType:
        """`Field(ge=0)` inside `Annotated[int, Field(ge=0)]`."""
        if ast.unparse(node.func) != "Field" or node.args:
            self._fail(node, f"{ast.unparse(node)} is no type", _EXAMPLE)
        keywords: dict[str, FieldType] = {}
        for keyword in node.keywords:
            if keyword.arg is None:
                self._fail(keyword.value, "** is not allowed here", _EXAMPLE)
            keywords[keyword.arg] = self._expression(keyword.value)
        try:
            return pydantic.Field(**keywords)
        except TypeError as error:
            self._fail(node, f"{ast.unparse(node)}: {error}", _EXAMPLE)


def is_type(value: FieldType) -> bool:
    """Whether pydantic can make a validator of it; a bare `Union` is none."""
    if isinstance(value, str) or value in (Literal, Optional, Union, typing.Annotated):
        return False
    if isinstance(value, tuple | int | float | bytes | typing.TypeVar):
        return False
    if inspect.isfunction(value):  # NamedTuple and TypedDict themselves
        return False
    bare = get_origin(value) is not None and not get_args(value)
    if bare and type(value) is not types.GenericAlias:
        return False  # List, Dict, Callable without their arguments
    return _has_validator(value)


def _has_validator(value: FieldType) -> bool:
    if _has_code(value):
        return False  # making its validator would run it
    try:
        pydantic.TypeAdapter(value)
    except (
        pydantic.PydanticUserError,
        pydantic_core.SchemaError,
        AssertionError,  # Literal[()]
        NameError,
        TypeError,
        ValueError,
    ):
        return False
    return True


def _has_code(value: FieldType) -> bool:
    """Whether a forward reference in it is more than a name."""
    if isinstance(value, typing.ForwardRef):
        return not value.__forward_arg__.isidentifier()
    origin: object = get_origin(value)
    if origin is Literal:
        return False
    arguments = get_args(value)
    if origin is typing.Annotated:
        arguments = arguments[:1]
    return any(
        (isinstance(argument, str) and not argument.isidentifier())
        or _has_code(argument)
        for argument in arguments
    )


def check_type(name: str, annotation: FieldType) -> None:
    """Refuse a field type that has no validator.

    Raises:
        SignatureError: it has none.
    """
    if not is_type(annotation):
        raise SignatureError(
            f"field {name!r}: {annotation!r} is not a type that a field can have; "
            "use a builtin, a typing form, an enum, a dataclass or a pydantic model"
        )
