"""Plain JSON: how the values that go to a model and come back are read from it."""

from functools import cache
from typing import TYPE_CHECKING, Any, ClassVar, Self, TypeAlias

from pydantic import ConfigDict, TypeAdapter, ValidationError

from dspex.providers.errors import InvalidRequestError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance as _Dataclass
else:
    _Dataclass = object

# What its values are is up to whoever wrote it.
JSONObject: TypeAlias = dict[str, Any]


class FromJSON(_Dataclass):
    """Reading from plain JSON, for frozen dataclasses."""

    __slots__ = ()
    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    @classmethod
    def from_json(cls, data: object) -> Self:
        """Build the value from what `to_json` gave; missing keys take the default.

        Raises:
            InvalidRequestError: a key is missing, unknown or of the wrong type.
        """
        try:
            value: Self = _adapter(cls).validate_python(data)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join([cls.__name__, *map(str, first["loc"])])
            raise InvalidRequestError(
                where, first["input"], f"is not valid: {first['msg']}"
            ) from error
        return value


@cache
def _adapter(cls: type) -> TypeAdapter[Any]:  # Any: one adapter for each dataclass
    return TypeAdapter(cls)
