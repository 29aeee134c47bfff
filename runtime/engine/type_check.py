"""Whether an output of one type can feed an input of another."""

from collections.abc import Mapping, Sequence
from types import NoneType, UnionType
from typing import Any, Final, Literal, Union, get_args, get_origin

# Any: types, such as Literal and unions, that are no classes.

_SCALARS: Final = (str, int, float, bool, bytes, NoneType)
_CONTAINERS: Final = (list, dict, tuple, set)


def can_feed(source: Any, target: Any) -> bool:
    """Whether a value of type `source` can be a `target`; True where unknown.

    Only what can never fit is refused: a number for a text, a list for a number.
    """
    if source is target or Any in (source, target) or object in (source, target):
        return True
    if get_origin(source) in (Union, UnionType):
        return any(can_feed(part, target) for part in get_args(source))
    if get_origin(target) in (Union, UnionType):
        return any(can_feed(source, part) for part in get_args(target))
    if get_origin(source) is Literal:
        if get_origin(target) is Literal:
            return bool(set(get_args(source)) & set(get_args(target)))
        return any(can_feed(type(value), target) for value in get_args(source))
    if get_origin(target) is Literal:
        return any(can_feed(source, type(value)) for value in get_args(target))
    source_kind, target_kind = _kind(source), _kind(target)
    if source_kind is None or target_kind is None:
        return True
    if source_kind is not target_kind:
        return (source_kind, target_kind) in {(int, float), (bool, int), (bool, float)}
    inner = zip(get_args(source), get_args(target), strict=False)
    return all(can_feed(left, right) for left, right in inner)


def item_type(annotation: Any) -> Any:
    """Give the type of a list's items; Any where unknown, None where it is no list."""
    if annotation is Any or annotation is object:
        return Any
    if get_origin(annotation) in (Union, UnionType):
        found = [item_type(part) for part in get_args(annotation)]
        return next((item for item in found if item is not None), None)
    if _kind(annotation) is list:
        return (get_args(annotation) or (Any,))[0]
    return Any if _kind(annotation) is None else None


def _kind(annotation: Any) -> type | None:
    """Give the scalar or container that a type is; None for any other type."""
    origin: Any = get_origin(annotation) or annotation
    if not isinstance(origin, type):
        return None
    if origin in _SCALARS or origin in _CONTAINERS:
        return origin
    if origin is Sequence:
        return list
    return dict if origin is Mapping else None
