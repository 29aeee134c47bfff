"""Parameters: what can be learned in a module, by name and with its limits.

Every predictor has its instructions, its demos and the settings of its model calls.
The names are those of `named_predictors`: `second.predict.instructions`; a bare Predict
has just `instructions`, `demos`, `temperature`.
"""

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Final, Literal, TypeAlias

import pydantic

from dspex.modules.errors import ParameterError, UnknownParameterError
from dspex.modules.fields import FieldType
from dspex.modules.module import Module, Predictor
from dspex.modules.signature import first_problem

Kind: TypeAlias = Literal["instructions", "demos", "setting"]

HISTORY: Final = 100

_SETTINGS: Final[Mapping[str, FieldType]] = {
    "temperature": Annotated[float | None, pydantic.Field(ge=0, le=2)],
    "top_p": Annotated[float | None, pydantic.Field(gt=0, le=1)],
    "max_tokens": Annotated[int | None, pydantic.Field(ge=1)],
    "n": Annotated[int | None, pydantic.Field(ge=1)],
    "seed": int | None,
    "stop": str | tuple[str, ...] | None,
}
_INSTRUCTIONS: Final[FieldType] = Annotated[str, pydantic.Field(min_length=1)]
# Any: a demo's values have the types of the signature's fields.
_DEMOS: Final[FieldType] = tuple[Mapping[str, Any], ...]

Subscriber: TypeAlias = Callable[["Parameter"], None]


@dataclass(frozen=True, slots=True)
class Parameter:
    """One learnable value: its name, kind and type, and the values it had before.

    `history` holds the last 100 values, oldest first, without the one it has.
    """

    name: str
    kind: Kind
    value: object
    type: FieldType
    history: tuple[object, ...] = ()

    def with_value(self, value: object) -> "Parameter":
        """Give the parameter with another value.

        Raises:
            ParameterError: the value is of another type, or breaks a constraint.
        """
        adapter: pydantic.TypeAdapter[Any] = pydantic.TypeAdapter(
            self.type
        )  # Any: its own
        try:
            checked: object = adapter.validate_python(value)
        except pydantic.ValidationError as error:
            raise ParameterError(self.name, value, first_problem(error)) from None
        history = (*self.history, self.value)[-HISTORY:]
        return Parameter(self.name, self.kind, checked, self.type, history)


def read_parameters(module: Module) -> dict[str, Parameter]:
    """Give all parameters of a module, by name."""
    found: dict[str, Parameter] = {}
    for name, predictor in module.named_predictors():
        start = "" if name == "self" else f"{name}."
        instructions = predictor.signature.instructions
        key = f"{start}instructions"
        found[key] = Parameter(key, "instructions", instructions, _INSTRUCTIONS)
        key = f"{start}demos"
        found[key] = Parameter(key, "demos", predictor.demos, _DEMOS)
        for setting, type_ in _SETTINGS.items():
            key = f"{start}{setting}"
            value = predictor.settings.get(setting)
            found[key] = Parameter(key, "setting", value, type_)
    return found


def with_parameter(module: Module, parameter: Parameter) -> Module:
    """Give a copy of the module in which the parameter has its value.

    Raises:
        UnknownParameterError: the module has no such parameter.
    """
    copied = module.copy()
    owner, _, what = parameter.name.rpartition(".")
    for name, predictor in copied.named_predictors():
        if name == (owner or "self"):
            _apply(predictor, what, parameter)
            return copied
    raise UnknownParameterError(parameter.name, tuple(read_parameters(module)))


def _apply(predictor: Predictor, what: str, parameter: Parameter) -> None:
    if parameter.kind == "instructions":
        predictor.signature = predictor.signature.with_instructions(
            str(parameter.value)
        )
    elif parameter.kind == "demos":
        demos: Any = parameter.value  # Any: validated against _DEMOS
        predictor.demos = tuple(demos)
    else:
        settings = {n: v for n, v in predictor.settings.items() if n != what}
        if parameter.value is not None:
            settings[what] = parameter.value
        predictor.settings = settings


@dataclass(slots=True)
class Snapshots:
    """Where module actors leave their parameters, for the next incarnation.

    Give one to the actors of a runtime; each saves under its name whenever a parameter
    changes, and reads it when it starts again.
    """

    saved: dict[str, "Snapshot"] = field(default_factory=dict[str, "Snapshot"])


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What survives an actor: its parameters, and how often it was started."""

    parameters: Mapping[str, Parameter]
    starts: int = 0


def percentile(durations: "deque[float] | list[float]", share: float) -> float:
    """Give the value below which `share` of the durations lie; 0.0 for none."""
    ordered = sorted(durations)
    if not ordered:
        return 0.0
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]
