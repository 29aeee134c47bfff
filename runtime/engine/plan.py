"""Plan: a program with its names resolved and its wiring checked."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from types import GenericAlias
from typing import Any, cast

from pydantic import TypeAdapter, ValidationError
from pydantic_core import (
    PydanticSerializationError,
    to_json,
    to_jsonable_python,
)

from dspex.runtime.engine.backend import Backend, Shape, StepResult
from dspex.runtime.engine.condition import (
    BadConditionError,
    Condition,
    parse_condition,
)
from dspex.runtime.engine.effects import Codec
from dspex.runtime.engine.errors import ProgramError, RunInputError
from dspex.runtime.engine.program import Program, Step
from dspex.runtime.engine.type_check import can_feed
from dspex.runtime.errors import DspexError

PROGRAM_INPUTS = "inputs"
_SHOWN = 200

# The parts of a step that an error about it names.
_BLAMED = ("signature", "config")


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
            },
            lambda data: StepResult(
                {
                    name: self._read(f"{step}.{name}", types.get(name, Any), value)
                    for name, value in data["outputs"].items()
                },
                data["usage"],
            ),
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
                    self.program.name, name, f"is not known; its inputs are: {known}"
                )
        checked: dict[str, Any] = {}
        for name, annotation in self.inputs.items():
            if name not in given:
                raise RunInputError(self.program.name, name, "is missing")
            try:
                checked[name] = self._read(f"inputs.{name}", annotation, given[name])
                to_json(checked[name], fallback=repr)
            except PydanticSerializationError as error:
                raise RunInputError(
                    self.program.name,
                    name,
                    "is no text that can be sent: it has a lone surrogate, half of a "
                    "character; decode it as UTF-8 or replace it",
                ) from error
            except ValidationError as error:
                problem = error.errors()[0]["msg"]
                raise RunInputError(
                    self.program.name,
                    name,
                    f"is {shown(given[name])}, not {type_name(annotation)}: "
                    f"{problem[:1].lower()}{problem[1:]}",
                ) from error
        return checked


def shown(value: object) -> str:
    """Give a value as errors show it: not longer than a line or two."""
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]} ..."


def type_name(annotation: object) -> str:
    """Give a type as a user writes it."""
    if isinstance(annotation, type) and not hasattr(annotation, "__args__"):
        return annotation.__name__
    return str(annotation).replace("typing.", "")


def make_plan(
    program: Program, backends: Mapping[str, Backend], *, actors: str | None = None
) -> Plan:
    """Check a program and resolve its names.

    `actors` is what the names of its actors begin with, instead of its own name.

    Raises:
        ProgramError: unknown module, signature type or name, a cycle; names file,
            line and step where the program came from text.
    """
    calls = {
        name: _shape(program, name, step, backends)
        for name, step in program.steps.items()
    }
    shapes = {name: _outer(program, name, calls[name]) for name in calls}
    wiring = {name: _wire(program, name, shapes) for name in program.steps}
    conditions = {
        name: _condition(program, name, step.when, shapes)
        for name, step in program.steps.items()
        if step.when is not None
    }
    for name in program.steps:
        _check_step(program, name, shapes, calls)
    inputs = _program_inputs(wiring, shapes)
    for condition in conditions.values():
        for source, input_name in condition.references:
            if source == PROGRAM_INPUTS:
                inputs.setdefault(input_name, Any)
    _check_types(program, wiring, shapes, inputs)
    plan = Plan(
        program,
        shapes,
        calls,
        wiring,
        inputs,
        _outputs(program, shapes),
        conditions,
        program.name if actors is None else actors,
    )
    try:
        TopologicalSorter(plan.dependencies).prepare()
    except CycleError as error:
        cycle: list[str] = error.args[1][::-1]
        raise ProgramError(
            f"steps wait for each other in a cycle: {' -> '.join(cycle)}",
            place=program.place("steps", cycle[0]),
        ) from error
    return plan


def _shape(
    program: Program, name: str, step: Step, backends: Mapping[str, Backend]
) -> Shape:
    try:
        return backends[step.backend].shape(step)
    except DspexError as error:
        # Such an error shows the place with a caret below; here there is a line.
        problem = str(error).splitlines()[0]
        key = next((key for key in _BLAMED if key in problem), "module")
        raise ProgramError(
            problem, place=program.place("steps", name, key), step=name
        ) from error


def _outer(program: Program, name: str, call: Shape) -> Shape:
    """Give what a step takes and gives as a whole."""
    mapped = program.steps[name].map
    if mapped is None:
        return call
    (over,) = mapped
    if over not in call.inputs:
        raise ProgramError(
            f"the signature has no input {over!r} to map over; "
            f"it has: {', '.join(call.inputs)}",
            place=program.place("steps", name, "map"),
            step=name,
        )
    inputs = dict(call.inputs)
    inputs[over] = _list_of(inputs[over])
    outputs = {key: _list_of(kind) for key, kind in call.outputs.items()}
    return Shape(inputs, outputs)


def _list_of(kind: Any) -> Any:  # Any: types, such as Literal, that are no classes
    return GenericAlias(list, (kind,))


def _condition(
    program: Program, name: str, text: str, shapes: Mapping[str, Shape]
) -> Condition:
    place = program.place("steps", name, "when")
    try:
        condition = parse_condition(text)
    except BadConditionError as error:
        raise ProgramError(f"when {text!r}: {error}", place=place, step=name) from error
    for source, field in condition.references:
        if source != PROGRAM_INPUTS:
            path = ("steps", name, "when")
            _reference(program, f"{source}.{field}", shapes, step=name, path=path)
    return condition


def _check_step(
    program: Program,
    name: str,
    shapes: Mapping[str, Shape],
    calls: Mapping[str, Shape],
) -> None:
    step = program.steps[name]
    for other in step.after:
        if other not in shapes:
            raise ProgramError(
                f"after names the step {other!r}, which is not there; "
                f"the steps are: {', '.join(shapes)}",
                place=program.place("steps", name, "after"),
                step=name,
            )
    options, place = step.options, program.place("steps", name, "options")
    if options.on_error == "default" and options.default is None:
        raise ProgramError(
            "on_error is default, and there is no default: give the outputs",
            place=place,
            step=name,
        )
    if options.default is not None:
        wanted = calls[name].outputs
        if set(options.default) != set(wanted):
            raise ProgramError(
                f"default must give exactly the outputs: {', '.join(wanted)}",
                place=place,
                step=name,
            )


def _check_types(
    program: Program,
    wiring: Mapping[str, Mapping[str, Reference | Literal]],
    shapes: Mapping[str, Shape],
    inputs: Mapping[str, Any],  # Any: types, such as Literal, that are no classes
) -> None:
    for name, wires in wiring.items():
        for field, source in wires.items():
            if isinstance(source, Literal):
                continue
            wanted = shapes[name].inputs[field]
            if source.step is None:
                given: Any = inputs[source.field]
                what = f"the program input {source.field}"
            else:
                given = shapes[source.step].outputs[source.field]
                what = f"{source.step}.{source.field}"
            if not can_feed(given, wanted):
                raise ProgramError(
                    f"the input {field!r} is {type_name(wanted)}, and {what} gives "
                    f"{type_name(given)}",
                    place=program.place("steps", name, "inputs", field),
                    step=name,
                )


def _wire(
    program: Program, name: str, shapes: Mapping[str, Shape]
) -> dict[str, Reference | Literal]:
    step = program.steps[name]
    wanted = shapes[name].inputs
    for given in step.inputs:
        if given not in wanted:
            raise ProgramError(
                f"the signature has no input {given!r}; it has: {', '.join(wanted)}",
                place=program.place("steps", name, "inputs", given),
                step=name,
            )
    written: dict[str, object] = {**step.inputs, **(step.map or {})}
    return {
        field: _explicit(program, name, field, written[field], shapes)
        if field in written
        else _implicit(program, name, field, shapes)
        for field in wanted
    }


def _explicit(
    program: Program,
    name: str,
    field: str,
    written: object,
    shapes: Mapping[str, Shape],
) -> Reference | Literal:
    if isinstance(written, str):
        return _reference(
            program, written, shapes, step=name, path=("steps", name, "inputs", field)
        )
    if not isinstance(written, Mapping):
        return Literal(written)
    mapping = cast("Mapping[str, object]", written)
    return Literal(mapping["value"] if set(mapping) == {"value"} else mapping)


def _reference(
    program: Program,
    text: str,
    shapes: Mapping[str, Shape],
    *,
    step: str | None,
    path: tuple[str, ...],
) -> Reference:
    source, dot, field = text.partition(".")
    place = program.place(*path)
    if not dot:
        raise ProgramError(
            f"{text!r} is not a reference: write inputs.NAME or STEP.FIELD, "
            f"or {{value: ...}} for a literal",
            place=place,
            step=step,
        )
    if source == PROGRAM_INPUTS:
        return Reference(None, field)
    if source not in shapes:
        raise ProgramError(
            f"{text!r} names the step {source!r}, which is not there; "
            f"the steps are: {', '.join(shapes)}",
            place=place,
            step=step,
        )
    if field not in shapes[source].outputs:
        raise ProgramError(
            f"{text!r}: step {source!r} has no output {field!r}; "
            f"it has: {', '.join(shapes[source].outputs)}",
            place=place,
            step=step,
        )
    return Reference(source, field)


def _implicit(
    program: Program, name: str, field: str, shapes: Mapping[str, Shape]
) -> Reference:
    givers = [
        other
        for other, shape in shapes.items()
        if other != name and field in shape.outputs
    ]
    if len(givers) > 1:
        raise ProgramError(
            f"the input {field!r} could come from the steps {', '.join(givers)}: "
            f"say which under inputs",
            place=program.place("steps", name),
            step=name,
        )
    return Reference(givers[0] if givers else None, field)


def _program_inputs(
    wiring: Mapping[str, Mapping[str, Reference | Literal]],
    shapes: Mapping[str, Shape],
) -> dict[str, Any]:
    return {
        source.field: shapes[name].inputs[field]
        for name, wires in wiring.items()
        for field, source in wires.items()
        if isinstance(source, Reference) and source.step is None
    }


def _outputs(program: Program, shapes: Mapping[str, Shape]) -> dict[str, Reference]:
    if program.outputs is not None:
        return {
            name: _reference(program, text, shapes, step=None, path=("outputs", name))
            for name, text in program.outputs.items()
        }
    found: dict[str, Reference] = {}
    for step, shape in shapes.items():
        for field in shape.outputs:
            if field in found:
                raise ProgramError(
                    f"the output {field!r} is given by the steps "
                    f"{found[field].step!r} and {step!r}: say which under outputs",
                    place=program.place("steps", step),
                )
            found[field] = Reference(step, field)
    return found
