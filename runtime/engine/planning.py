"""Planning: checking a program and resolving its names."""

from collections.abc import Mapping
from graphlib import CycleError, TopologicalSorter
from types import GenericAlias
from typing import Any

from dspex.runtime.engine.backend import Backend, Shape
from dspex.runtime.engine.condition import (
    BadConditionError,
    Condition,
    parse_condition,
)
from dspex.runtime.engine.errors import ProgramError
from dspex.runtime.engine.plan import (
    PROGRAM_INPUTS,
    Literal,
    Plan,
    Reference,
    type_name,
)
from dspex.runtime.engine.program import Program, Step
from dspex.runtime.engine.type_check import can_feed
from dspex.runtime.engine.wiring import (
    outputs,
    program_inputs,
    reference,
    wire,
    written_at,
)
from dspex.runtime.errors import DspexError


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
    wiring = {name: wire(program, name, shapes) for name in program.steps}
    conditions = {
        name: _condition(program, name, step.when, shapes)
        for name, step in program.steps.items()
        if step.when is not None
    }
    for name in program.steps:
        _check_step(program, name, shapes, calls)
    inputs = program_inputs(wiring, shapes)
    for condition in conditions.values():
        for source, input_name in condition.references:
            if source == PROGRAM_INPUTS:
                inputs.setdefault(input_name, Any)
    warnings = _check_declared(program, wiring, conditions, inputs)
    _check_types(program, wiring, shapes, inputs)
    plan = Plan(
        program,
        shapes,
        calls,
        wiring,
        inputs,
        outputs(program, shapes),
        conditions,
        program.name if actors is None else actors,
        warnings,
    )
    try:
        TopologicalSorter(plan.dependencies).prepare()
    except CycleError as error:
        cycle: list[str] = error.args[1][::-1]
        raise ProgramError(
            f"steps wait for each other in a cycle: {' -> '.join(cycle)}",
            place=program.place("steps", cycle[0]),
            step=cycle[0],
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
        place = program.place("steps", name, *_blamed(step, problem, error))
        raise ProgramError(problem, place=place, step=name) from error


def _blamed(step: Step, problem: str, error: DspexError) -> tuple[str, ...]:
    """Give which part of a step an error of its backend is about."""
    setting = str(getattr(error, "name", "")).partition("[")[0]
    if setting in step.config:
        return ("config", setting)
    if setting in Step.model_fields:
        return (setting,)
    return ("signature" if "signature" in problem else "module",)


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
            reference(program, f"{source}.{field}", shapes, step=name, path=path)
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


def _check_declared(
    program: Program,
    wiring: Mapping[str, Mapping[str, Reference | Literal]],
    conditions: Mapping[str, Condition],
    inputs: dict[str, Any],  # Any: types, such as Literal, that are no classes
) -> tuple[str, ...]:
    """Compare the inputs that a program declares with those that it uses.

    Gives a warning for each that no step uses; a run must be given it all the same.
    """
    if program.inputs is None:
        return ()
    used = [
        (name, written_at(program, name, field), source.field)
        for name, wires in wiring.items()
        for field, source in wires.items()
        if isinstance(source, Reference) and source.step is None
    ]
    used += [
        (name, ("steps", name, "when"), field)
        for name, condition in conditions.items()
        for source, field in condition.references
        if source == PROGRAM_INPUTS
    ]
    for name, path, field in used:
        if field not in program.inputs:
            declared = ", ".join(program.inputs) or "none"
            raise ProgramError(
                f"nothing gives {field!r}: no step does, and the program's inputs "
                f"are: {declared}",
                place=program.place(*path),
                step=name,
            )
    for field in program.inputs:
        inputs.setdefault(field, Any)
    unused = set(program.inputs) - {field for _, _, field in used}
    return tuple(
        str(
            ProgramError(
                f"the input {field!r} is used by no step: remove it, or use it",
                place=program.place("inputs", index),
            )
        )
        for index, field in enumerate(program.inputs)
        if field in unused
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
                    place=program.place(*written_at(program, name, field)),
                    step=name,
                )
