"""Containers of unknown content, told apart for the type checkers."""

from typing import Any, TypeGuard


def is_list(value: object) -> TypeGuard[list[Any]]:  # Any: unknown content
    """Whether it is a list, of whatever."""
    return isinstance(value, list)


def is_tuple(value: object) -> TypeGuard[tuple[Any, ...]]:  # Any: unknown content
    """Whether it is a tuple, of whatever."""
    return isinstance(value, tuple)


def is_set(value: object) -> TypeGuard[set[Any] | frozenset[Any]]:  # Any: unknown
    """Whether it is a set or a frozen one, of whatever."""
    return isinstance(value, set | frozenset)


def is_object(value: object) -> TypeGuard[dict[str, Any]]:  # Any: unknown content
    """Whether it is a dict; JSON's have string keys."""
    return isinstance(value, dict)
