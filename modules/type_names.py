"""Types by their names, both ways: `list[str]` as text and as a Python type."""

import collections
import datetime
import decimal
import enum
import fractions
import pathlib
import re
import types
import typing
import uuid
from collections.abc import Mapping
from typing import (
    Annotated,
    Any,
    Final,
    Literal,
    TypeAlias,
    Union,
    get_args,
    get_origin,
)

# A typing form: no static type covers them all.
TypeForm: TypeAlias = Any

_TYPING: Final[frozenset[str]] = frozenset(
    name for name in vars(typing) if name[0].isupper()
)

_BUILTINS: Final[Mapping[str, TypeForm]] = {
    cls.__name__: cls
    for cls in (
        int,
        str,
        float,
        bool,
        list,
        tuple,
        dict,
        set,
        frozenset,
        complex,
        bytes,
        bytearray,
        type(None),
    )
}

# What a dotted name may start with. A name never makes anything be imported.
_MODULES: Final[Mapping[str, types.ModuleType]] = {
    "collections": collections,
    "datetime": datetime,
    "decimal": decimal,
    "enum": enum,
    "fractions": fractions,
    "pathlib": pathlib,
    "re": re,
    "types": types,
    "typing": typing,
    "uuid": uuid,
}


class UnknownTypeNameError(LookupError):
    """No type of this name is known; `known` lists names one may have meant."""

    def __init__(self, name: str, known: tuple[str, ...]) -> None:
        super().__init__(name)
        self.name = name
        self.known = known


def find_type(name: str, custom_types: Mapping[str, TypeForm]) -> TypeForm:
    """Give the type that `name` stands for.

    Looked up in `custom_types`, the builtins, `typing`, and for a dotted name in a
    fixed list of standard modules and dspex's own types under `dspy.`.

    Raises:
        UnknownTypeNameError: it is in none of them.
    """
    if name in custom_types:
        return custom_types[name]
    if name in _BUILTINS:
        return _BUILTINS[name]
    if "." not in name and name in _TYPING:
        return getattr(typing, name)
    module, _, attribute = name.rpartition(".")
    if module in _MODULES and not attribute.startswith("_"):
        found: TypeForm = getattr(_MODULES[module], attribute, None)
        if found is not None:
            return found
    known = (*custom_types, *_BUILTINS, *_TYPING)
    raise UnknownTypeNameError(name, known)


def allows_none(annotation: TypeForm) -> bool:
    """Whether None is a value of the type: `int | None`, `Optional[str]`, `None`."""
    if annotation is None or annotation is type(None):
        return True
    origin: object = get_origin(annotation)
    if origin is Annotated:
        return allows_none(get_args(annotation)[0])
    if is_union(annotation):
        return any(allows_none(arg) for arg in get_args(annotation))
    return False


def is_union(annotation: TypeForm) -> bool:
    """Whether the type is `A | B`, `Union[A, B]` or `Optional[A]`."""
    origin: object = get_origin(annotation)
    return origin is Union or origin is types.UnionType


def type_name(annotation: TypeForm) -> str:
    """Give a type as one writes it: `list[str]`, `Literal['a', 'b']`, `int | None`."""
    if annotation is type(None) or annotation is None:
        return "None"
    if annotation is Ellipsis:
        return "..."
    origin: object = get_origin(annotation)
    args = get_args(annotation)
    if origin is Annotated:
        return type_name(args[0])
    if origin is Literal:
        return f"Literal[{', '.join(map(_literal, args))}]"
    if is_union(annotation):
        return " | ".join(type_name(arg) for arg in args)
    name = getattr(origin or annotation, "__name__", None) or str(annotation)
    if origin is None or not args:
        return name
    return f"{name}[{', '.join(type_name(arg) for arg in args)}]"


def _literal(value: object) -> str:
    return repr(value.value) if isinstance(value, enum.Enum) else repr(value)
