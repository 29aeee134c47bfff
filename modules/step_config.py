"""A step's config, checked when the program is built, not when it runs."""

from collections.abc import Collection, Mapping
from functools import cache
from typing import Annotated, Any, Final, Literal

from pydantic import Field, TypeAdapter, ValidationError

from dspex.modules.errors import ConfigError
from dspex.runtime.engine import Step

# What every module takes; what else a config holds is checked by the module itself.
_SETTINGS: Final[Mapping[str, Any]] = {  # Any: types that are no classes
    "adapter": Literal["chat", "json", "xml", "tools"],
    "extra": dict[str, Any],
    "max_tokens": Annotated[int, Field(ge=1)],
    "n": Annotated[int, Field(ge=1, le=128)],
    "repairs": Annotated[int, Field(ge=0, le=10)],
    "seed": int,
    "stop": str | list[str],
    "strict_inputs": bool,
    "temperature": Annotated[float, Field(ge=0, le=2)],
    "top_p": Annotated[float, Field(gt=0, le=1)],
}
# What the step says elsewhere, or what cannot be said in a file.
_NOT_HERE: Final = frozenset(
    {"custom_types", "demos", "instructions", "lm", "self", "signature"}
)


@cache
def _validator(name: str) -> TypeAdapter[Any]:  # Any: as above
    return TypeAdapter(_SETTINGS[name])


def check_config(step: Step) -> None:
    """Pass when a step's config can be used.

    Raises:
        ConfigError: a setting has a value that cannot be, or belongs elsewhere.
    """
    for name, value in step.config.items():
        if name in _NOT_HERE:
            raise ConfigError(name, value, "is no part of a step's config")
        if name in _SETTINGS and value is not None:
            try:
                _validator(name).validate_python(value, strict=name != "temperature")
            except ValidationError as error:
                problem = error.errors()[0]["msg"]
                problem = problem[:1].lower() + problem[1:]
                raise ConfigError(name, value, problem) from None


def check_demos(step: Step, fields: Collection[str]) -> None:
    """Pass when a step's demos name only fields of the step, its reasoning included.

    Raises:
        ConfigError: one names another.
    """
    for index, demo in enumerate(step.demos):
        for name in demo:
            if name not in fields:
                raise ConfigError(
                    f"demos[{index}]",
                    name,
                    f"is no field; the fields are {', '.join(fields)}",
                )
