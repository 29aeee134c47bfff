"""Types as text, the way one writes them: `list[str]`, `int | None`."""

import enum
import types
from typing import Annotated, Any, Literal, TypeAlias, Union, get_args, get_origin

# A typing form: no static type covers them all.
TypeForm: TypeAlias = Any


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
