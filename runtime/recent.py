"""Recent: the latest things, as many as may be and as large as they may be."""

from collections import deque
from collections.abc import Hashable, Iterator
from contextlib import suppress
from functools import lru_cache
from sys import getsizeof
from types import FunctionType, MemberDescriptorType, ModuleType, NoneType
from typing import Final, Generic, TypeVar, cast

from dspex.runtime.ref import ActorRef

ThingT = TypeVar("ThingT")

_CONTAINERS: Final = (list, tuple, set, frozenset, deque)
_ATOMS: Final = frozenset({NoneType, bool, int, float, bytes})
# What a value names and does not own.
_SHARED: Final = (type, FunctionType, ModuleType, ActorRef)
_MOST_PARTS: Final = 10_000
_OBJECT: Final = 50
_FIELD: Final = 100


class Recent(Generic[ThingT]):
    """Keeps the latest things: at most `most`, and at most `max_bytes` of them.

    The very latest is kept however large it is.
    """

    __slots__ = ("_max_bytes", "_most", "_things", "size_bytes")

    def __init__(self, *, most: int, max_bytes: int) -> None:
        self.size_bytes = 0
        """How large all of them are, by what `add` was told."""
        self._most = most
        self._max_bytes = max_bytes
        self._things: deque[tuple[ThingT, int]] = deque()

    def __len__(self) -> int:
        return len(self._things)

    def __iter__(self) -> Iterator[ThingT]:
        return (thing for thing, _ in self._things)

    def add(self, thing: ThingT, size: int) -> list[ThingT]:
        """Keep one more, of `size` bytes; give those that have to go, oldest first."""
        things = self._things
        things.append((thing, size))
        self.size_bytes += size
        gone: list[ThingT] = []
        while len(things) > self._most or (
            self.size_bytes > self._max_bytes and len(things) > 1
        ):
            oldest, its_size = things.popleft()
            self.size_bytes -= its_size
            gone.append(oldest)
        return gone


def memory_bytes(value: object) -> int:
    """Give about how many bytes a value takes with all that it is made of.

    Parts are items, fields, and the arguments and causes of an error; an object that is
    there twice counts once. After 10,000 of them the rest is taken to be like these.
    """
    total = 0
    # It grows while it is walked.
    parts = [value]
    seen: set[int] | None = None  # most values have no objects
    for walked, it in enumerate(parts, 1):
        kind = type(it)
        if kind is str:
            total += _OBJECT + len(cast("str", it))
        elif kind is dict:
            fields = cast("dict[object, object]", it)
            total += _OBJECT + _FIELD * len(fields)
            parts += fields.values()
        elif kind is tuple or kind is list:
            total += getsizeof(it)
            parts += cast("list[object]", it)
        elif kind in _ATOMS:
            total += getsizeof(it)
        elif not isinstance(it, _SHARED):
            seen = set() if seen is None else seen
            if id(it) not in seen:
                seen.add(id(it))
                total += getsizeof(it)
                parts += _parts_of(it)
        if walked >= _MOST_PARTS:
            return total * len(parts) // walked
    return total


def _parts_of(value: object) -> list[object]:
    if isinstance(value, _CONTAINERS):
        return list(cast("tuple[object, ...]", value))
    if isinstance(value, dict):
        return list(cast("dict[object, object]", value).values())
    fields = getattr(value, "__dict__", None)
    parts = list(cast("dict[str, object]", fields).values()) if fields else []
    kind = cast("Hashable", type(value))  # mypy does not see that classes are
    for slot in _slots_of(kind):
        with suppress(AttributeError):  # it has no value
            parts.append(slot.__get__(value))
    if isinstance(value, BaseException):
        parts += [*value.args, value.__cause__, value.__context__]
    return parts


@lru_cache(maxsize=1_000)
def _slots_of(kind: Hashable) -> tuple[MemberDescriptorType, ...]:
    return tuple(
        member
        for each in cast("type", kind).__mro__
        if "__slots__" in vars(each)
        for member in vars(each).values()
        if isinstance(member, MemberDescriptorType)
    )
