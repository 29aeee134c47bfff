"""Plan: a program with its names resolved and its wiring checked, ready to run."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import TypeAdapter, ValidationError
from pydantic_core import to_jsonable_python

from dspex.runtime.engine.backend import Shape, StepResult
from dspex.runtime.engine.condition import Condition
from dspex.runtime.engine.effects import Codec
from dspex.runtime.engine.errors import RunInputError, did_you_mean
from dspex.runtime.engine.json_text import json_problem
from dspex.runtime.engine.program import Program

PROGRAM_INPUTS = "inputs"
_SHOWN = 200


@dataclass(frozen=True, slots=True)
class Reference:
    """An output `field` of a step, or an input of the program (`step` is None)."""

    step: str | None
    field: str


@dataclass(frozen=True, slots=True)
class Literal:
    """A value written in the program."""

    value: object


@dataclass(frozen=True, slots=True)
class Plan:
    """What the engine needs to run a program."""

    program: Program
    shapes: Mapping[str, Shape]
    """What each step takes and gives as the others see it: lists, where it maps."""
    calls: Mapping[str, Shape]
    """What one call of each step takes and gives."""
    wiring: Mapping[str, Mapping[str, Reference | Literal]]
    inputs: Mapping[str, Any]  # Any: types, such as Literal, that are no classes
    outputs: Mapping[str, Reference]
    conditions: Mapping[str, Condition]
    actors: str
    """What the names of its actors begin with."""
    warnings: tuple[str, ...] = ()
    """What is odd and yet can be run, each with its file and line."""
    _adapters: dict[str, TypeAdapter[Any]] = dataclasses.field(
        default_factory=dict[str, TypeAdapter[Any]], compare=False, repr=False
    )

    def result_codec(self, step: str) -> Codec[StepResult]:
        """Give what writes down and reads again the results of a step."""
        types = self.calls[step].outputs
        return Codec(
            "step",
            lambda result: {
                "outputs": to_jsonable_python(dict(result.outputs), fallback=str),
                "usage": dict(result.usage),
                "cost_usd": result.cost,
            },
            lambda data: StepResult(
                {
                    name: self._read(f"{step}.{name}", types.get(name, Any), value)
                    for name, value in data["outputs"].items()
                },
                data["usage"],
                data.get("cost_usd"),
            ),
            cost=lambda result: result.cost,
            is_whole=True,
        )

    def read_outputs(self, data: Mapping[str, Any]) -> dict[str, Any]:  # Any: JSON
        """Give a run's outputs from JSON, converted to their types."""
        found: dict[str, Any] = {}  # Any: whatever the signatures say
        for name, value in data.items():
            source = self.outputs.get(name)
            annotation: Any = Any
            if source is not None and source.step is not None:
                annotation = self.shapes[source.step].outputs[source.field]
            elif source is not None:
                annotation = self.inputs[source.field]
            found[name] = self._read(f"outputs.{name}", annotation, value)
        return found

    def _read(self, key: str, annotation: Any, value: object) -> Any:  # Any: a type
        adapter = self._adapters.get(key)
        if adapter is None:
            adapter = self._adapters[key] = TypeAdapter(annotation)
        return adapter.validate_python(value)

    @property
    def dependencies(self) -> dict[str, set[str]]:
        """The steps that each step waits for."""
        return {
            name: self.needs(name)
            | set(self.program.steps[name].after)
            | {
                source
                for source, _ in (
                    self.conditions[name].references if name in self.conditions else ()
                )
                if source != PROGRAM_INPUTS
            }
            for name in self.wiring
        }

    def needs(self, step: str) -> set[str]:
        """Give the steps whose outputs a step takes."""
        return {
            source.step
            for source in self.wiring[step].values()
            if isinstance(source, Reference) and source.step is not None
        }

    def check_inputs(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Give the run's inputs, converted to their types.

        Raises:
            RunInputError: one is missing, unknown or of the wrong type.
        """
        for name in given:
            if name not in self.inputs:
                known = ", ".join(self.inputs) or "none"
                raise RunInputError(
                    self.program.name,
                    name,
                    f"is not known{did_you_mean(name, self.inputs)}; "
                    f"its inputs are: {known}",
                )
        checked: dict[str, Any] = {}
        for name, annotation in self.inputs.items():
            if name not in given:
                raise RunInputError(
                    self.program.name, name, f"is missing{self._taker(name)}"
                )
            try:
                checked[name] = self._read(f"inputs.{name}", annotation, given[name])
            except ValidationError as error:
                problem = error.errors()[0]["msg"]
                raise RunInputError(
                    self.program.name,
                    name,
                    f"is {shown(given[name])}, not {type_name(annotation)}: "
                    f"{problem[:1].lower()}{problem[1:]}",
                ) from error
            unsendable = json_problem(checked[name])
            if unsendable is not None:
                raise RunInputError(
                    self.program.name, name, f"cannot be sent: it {unsendable}"
                )
        return checked

    def _taker(self, name: str) -> str:
        """Say which step takes an input that nothing gave, and what it may have meant.

        An input that no step gives is one of the program, and so is one misspelt.
        """
        near = did_you_mean(
            name, {it for shape in self.shapes.values() for it in shape.outputs}
        )
        for step, wires in self.wiring.items():
            for field, source in wires.items():
                if source == Reference(None, name):
                    place = self.program.place("steps", step, "signature")
                    where = "" if place is None else f" ({place})"
                    return f": step {step!r}{where} takes it as {field!r}{near}"
        return near


def shown(value: object) -> str:
    """Give a value as errors show it: not longer than a line or two."""
    try:
        text = repr(value)
    # A whole number of 5,000 digits, a list of 100,000 levels, an object's own fault.
    except Exception:  # noqa: BLE001
        return f"a {type(value).__name__} that cannot be shown"
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]} ..."


def type_name(annotation: object) -> str:
    """Give a type as a user writes it."""
    if isinstance(annotation, type) and not hasattr(annotation, "__args__"):
        return annotation.__name__
    return str(annotation).replace("typing.", "")
