"""OnBoth, ValueOnBoth: members that work on a signature and on a signature class."""

from collections.abc import Callable
from typing import Any, Concatenate, Generic, ParamSpec, TypeVar

T = TypeVar("T")
P = ParamSpec("P")
R = TypeVar("R")


class OnBoth(Generic[T, P, R]):
    """A method of an instance, or of the class with an instance made for the call."""

    def __init__(self, function: Callable[Concatenate[T, P], R]) -> None:
        self._function: Any = function  # Any: `__get__` is not on Callable
        self.__doc__ = function.__doc__

    def __get__(self, instance: T | None, owner: type[T]) -> Callable[P, R]:
        bound: Callable[P, R] = self._function.__get__(
            owner() if instance is None else instance
        )
        return bound


class ValueOnBoth(Generic[T, R]):
    """A value worked out once for an immutable instance, or anew on the class."""

    def __init__(self, function: Callable[[T], R]) -> None:
        self._function = function
        self._name = ""
        self.__doc__ = function.__doc__

    def __set_name__(self, owner: type[T], name: str) -> None:
        self._name = name

    def __get__(self, instance: T | None, owner: type[T]) -> R:
        if instance is None:
            return self._function(owner())
        found = self._function(instance)
        # An instance's own attribute comes before this: it is not asked again.
        vars(instance)[self._name] = found
        return found
