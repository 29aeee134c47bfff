"""Wiring: where the inputs of steps, and the outputs of a program, come from."""

from collections.abc import Mapping
from typing import Any, cast

from dspex.runtime.engine.backend import Shape
from dspex.runtime.engine.errors import ProgramError
from dspex.runtime.engine.plan import PROGRAM_INPUTS, Literal, Reference
from dspex.runtime.engine.program import Program


def wire(
    program: Program, name: str, shapes: Mapping[str, Shape]
) -> dict[str, Reference | Literal]:
    """Give where each input of a step comes from, written or by name.

    Raises:
        ProgramError: it comes from nowhere, or could come from several steps.
    """
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
        return reference(
            program, written, shapes, step=name, path=written_at(program, name, field)
        )
    if not isinstance(written, Mapping):
        return Literal(written)
    mapping = cast("Mapping[str, object]", written)
    return Literal(mapping["value"] if set(mapping) == {"value"} else mapping)


def written_at(program: Program, step: str, field: str) -> tuple[str, ...]:
    """Give the path of what says where an input of a step comes from."""
    mapped = program.steps[step].map
    return ("steps", step, "map" if field in (mapped or ()) else "inputs", field)


def reference(
    program: Program,
    text: str,
    shapes: Mapping[str, Shape],
    *,
    step: str | None,
    path: tuple[str, ...],
) -> Reference:
    """Read `inputs.NAME` or `STEP.FIELD`; `path` is where it is written.

    Raises:
        ProgramError: it is neither, or names what is not there.
    """
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


def program_inputs(
    wiring: Mapping[str, Mapping[str, Reference | Literal]],
    shapes: Mapping[str, Shape],
) -> dict[str, Any]:
    """Give the inputs of the program with the types of what they feed."""
    return {
        source.field: shapes[name].inputs[field]
        for name, wires in wiring.items()
        for field, source in wires.items()
        if isinstance(source, Reference) and source.step is None
    }


def outputs(program: Program, shapes: Mapping[str, Shape]) -> dict[str, Reference]:
    """Give where the outputs of the program come from.

    Raises:
        ProgramError: one is not there, or two steps give one of the same name.
    """
    if program.outputs is not None:
        return {
            name: reference(program, text, shapes, step=None, path=("outputs", name))
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
                    step=step,
                )
            found[field] = Reference(step, field)
    return found
