"""The parts of a prompt that every adapter writes alike."""

import enum
import inspect
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Final, Literal, TypeAlias, cast, get_args, get_origin

from dspex.modules.adapters.protocol import Demo
from dspex.modules.adapters.values import show_value
from dspex.modules.fields import Field
from dspex.modules.media import History, Image
from dspex.modules.plain import is_list
from dspex.modules.signature import Inputs, Signature
from dspex.providers.messages import Message, Request
from dspex.providers.parts import Part, TextPart

_CONSTRAINT_WORDS: Final[Mapping[str, str]] = {
    "gt": "more than {}",
    "ge": "at least {}",
    "lt": "less than {}",
    "le": "at most {}",
    "multiple_of": "a multiple of {}",
    "min_length": "length at least {}",
    "max_length": "length at most {}",
    "pattern": "matching {}",
}

OutputWriter: TypeAlias = Callable[[Signature, Demo], str]


def describe_fields(fields: Iterable[Field]) -> str:
    """List fields for the model: name, type, description, constraints."""
    lines: list[str] = []
    for field in fields:
        desc = field.desc
        about = f": {desc}" if desc and desc != f"${{{field.name}}}" else ""
        limits = describe_constraints(field)
        lines.append(f"- `{field.name}` ({field.type_name}{limits}){about}")
    return "\n".join(lines)


def describe_constraints(field: Field) -> str:
    """Give `, at least 0, at most 10`, or nothing."""
    return "".join(
        f", {_CONSTRAINT_WORDS[name].format(value)}"
        for name, value in field.constraints.items()
        if name in _CONSTRAINT_WORDS
    )


def describe_value(field: Field) -> str:
    """Say what shall be written for an output: `an integer`, `one of: a; b`."""
    annotation = field.annotation
    if annotation is str:
        return "text"
    if annotation is bool:
        return "True or False"
    if annotation is int:
        return "an integer"
    if annotation is float:
        return "a number"
    origin: object = get_origin(annotation)
    if origin is Literal:
        return f"exactly one of: {'; '.join(map(str, get_args(annotation)))}"
    if inspect.isclass(annotation) and issubclass(annotation, enum.Enum):
        return f"exactly one of: {'; '.join(str(m.value) for m in annotation)}"
    schema = field.plain_validator.json_schema()
    return f"JSON of this schema: {json.dumps(schema, ensure_ascii=False)}"


def marker(name: str) -> str:
    """Give the line that starts a field: dspy's, so that programs move freely."""
    return f"[[ ## {name} ## ]]"


def input_content(
    signature: Signature, inputs: Inputs, request: str = ""
) -> str | tuple[Part, ...]:
    """Give the inputs under their markers, then what is asked for.

    One that is not given is left out. With images it is a message of several parts.
    """
    pieces: list[str | Part] = []
    for name, field in signature.input_fields.items():
        if name not in inputs or field.annotation is History:
            continue
        images = _images_in(inputs[name])
        if images:
            pieces.append(marker(name))
            pieces.extend(image.to_part() for image in images)
        else:
            pieces.append(f"{marker(name)}\n{show_value(field, inputs[name])}")
    if request:
        pieces.append(request)
    if all(isinstance(piece, str) for piece in pieces):
        return "\n\n".join(cast(list[str], pieces))
    return tuple(TextPart(p) if isinstance(p, str) else p for p in pieces)


def history_messages(
    signature: Signature, inputs: Inputs, write_outputs: OutputWriter
) -> list[Message]:
    """Give the turns of the conversation so far, from the input that holds it."""
    turns: list[Message] = []
    for name, field in signature.input_fields.items():
        if field.annotation is not History or not isinstance(inputs.get(name), History):
            continue
        rest = signature.delete(name)
        for turn in inputs[name].messages:
            asked = {n: turn[n] for n in rest.input_fields if n in turn}
            if asked:
                turns.append(Message.user(input_content(rest, asked)))
            if any(output in turn for output in rest.output_fields):
                turns.append(Message.assistant(write_outputs(rest, turn)))
    return turns


def _images_in(value: object) -> list[Image]:
    if isinstance(value, Image):
        return [value]
    if is_list(value):
        found = [item for item in value if isinstance(item, Image)]
        return found if len(found) == len(value) else []
    return []


def show_output(field: Field, outputs: Demo) -> str:
    """Give an output of a demo as text; one that is not given is said to be."""
    value = outputs.get(field.name)
    if value is None and not field.is_optional:
        return "(left out)"
    return show_value(field, value)


def demo_messages(
    signature: Signature, demos: Sequence[Demo], write_outputs: OutputWriter
) -> list[Message]:
    """Give each demo as a pair of turns; those with gaps come first, marked as such.

    A demo without any input or without any output teaches nothing and is left out.
    """
    partial: list[Message] = []
    complete: list[Message] = []
    for demo in demos:
        given = {name for name, value in demo.items() if value is not None}
        inputs, outputs = signature.input_fields, signature.output_fields
        if given.issuperset(signature.fields):
            turns, note = complete, ""
        elif given.intersection(inputs) and given.intersection(outputs):
            turns, note = partial, "(An example with some fields left out.)\n\n"
        else:
            continue
        shown = {name: demo[name] for name in inputs if name in demo}
        turns.append(Message.user(_with_note(note, input_content(signature, shown))))
        turns.append(Message.assistant(write_outputs(signature, demo)))
    return [*partial, *complete]


def _with_note(note: str, content: str | tuple[Part, ...]) -> str | tuple[Part, ...]:
    if isinstance(content, str):
        return note + content
    return (TextPart(note), *content) if note else content


def with_messages(request: Request, messages: Sequence[Message]) -> Request:
    """Give the same request with other messages."""
    return replace(request, messages=tuple(messages))
