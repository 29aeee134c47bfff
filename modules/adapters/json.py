"""Outputs as one JSON object, by the provider's JSON schema where it has one."""

import json
from collections.abc import Sequence
from weakref import WeakKeyDictionary

from dspex.modules.adapters.chat import ChatAdapter
from dspex.modules.adapters.json_text import load_object, loosely, without_thinking
from dspex.modules.adapters.prompt import (
    ask_again,
    demo_messages,
    describe_constraints,
    describe_fields,
    describe_value,
    fill_optional,
    history_messages,
    input_content,
)
from dspex.modules.adapters.protocol import Demo, Outputs, Reading
from dspex.modules.adapters.schema import output_schema
from dspex.modules.adapters.values import UnreadableValueError, read_value, to_plain
from dspex.modules.errors import AdapterParseError
from dspex.modules.signature import Inputs, Signature
from dspex.providers.lm import Capabilities
from dspex.providers.messages import Choice, Message, OutputSchema, Request


class JSONAdapter:
    """Inputs under markers, outputs as one JSON object, in the signature's order.

    A model that can is bound to the JSON schema of the outputs. `max_string_length`
    puts a `maxLength` on every string in it, in characters: small models need it, for
    they do not end a string by themselves.
    """

    name = "JSONAdapter"

    def __init__(self, *, max_string_length: int | None = None) -> None:
        self.max_string_length = max_string_length
        self._systems: WeakKeyDictionary[Signature, str] = WeakKeyDictionary()
        self._schemas: WeakKeyDictionary[Signature, OutputSchema | None] = (
            WeakKeyDictionary()
        )

    def format(
        self,
        signature: Signature,
        *,
        demos: Sequence[Demo],
        inputs: Inputs,
        capabilities: Capabilities,
    ) -> Request:
        """Give the conversation: the task, the demos as turns, the inputs."""
        system = self._systems.get(signature)
        if system is None:
            self._systems[signature] = system = _describe_task(signature)
        return Request(
            (
                Message.system(system),
                *demo_messages(signature, demos, write_outputs),
                *history_messages(signature, inputs, write_outputs),
                Message.user(input_content(signature, inputs, _reminder(signature))),
            ),
            output_schema=self._schema(signature) if capabilities.json_schema else None,
        )

    def parse(self, signature: Signature, choice: Choice) -> Reading:
        """Read the outputs from the JSON object in the answer.

        Raises:
            AdapterParseError: there is none, or an output is missing or wrong.
        """
        text = choice.text
        if not text.strip():
            raise self._error(signature, text, "the answer is empty")
        found = load_object(text)
        try:
            if found is None:
                raise self._error(signature, text, "there is no JSON object in it")
            return self._read(signature, text, found, [])
        except AdapterParseError:
            reading = self._read_loosely(signature, choice)
            if reading is None:
                raise
            return reading

    def repair(self, request: Request, choice: Choice, problem: str) -> Request:
        """Give the request that shows the model what is wrong with its answer."""
        return ask_again(request, choice, problem, "Write the whole JSON object again.")

    def _schema(self, signature: Signature) -> OutputSchema | None:
        if signature not in self._schemas:
            self._schemas[signature] = output_schema(
                signature, max_string_length=self.max_string_length
            )
        return self._schemas[signature]

    def read(self, signature: Signature, found: Outputs) -> Reading:
        """Read the outputs from an object, such as the arguments of a tool call.

        Raises:
            AdapterParseError: an output is missing or wrong.
        """
        return self._read(signature, json.dumps(found, default=str), found, [])

    def _read(
        self, signature: Signature, text: str, found: Outputs, notes: list[str]
    ) -> Reading:
        outputs: Outputs = {}
        for name, value in found.items():
            field = signature.output_fields.get(name)
            if field is None:
                continue
            try:
                outputs[name] = read_value(field, value, notes)
            except UnreadableValueError as error:
                raise AdapterParseError(
                    self.name,
                    signature.signature,
                    problem=str(error),
                    text=text,
                    field=name,
                    expected=field.type_name,
                ) from None
        outputs, missing = fill_optional(signature, outputs)
        if missing is not None:
            raise AdapterParseError(
                self.name,
                signature.signature,
                problem=f"there is no key {missing.name!r} in the answer",
                text=text,
                field=missing.name,
                expected=missing.type_name,
            )
        return Reading(outputs, tuple(notes))

    def _read_loosely(self, signature: Signature, choice: Choice) -> Reading | None:
        spoken = without_thinking(choice.text)
        start = ["thinking"] if spoken != choice.text else []
        found = load_object(spoken)
        forgiven = None if found is None else loosely(found, signature)
        if forgiven is not None:
            read, notes = forgiven
            try:
                return self._read(signature, choice.text, read, [*start, *notes])
            except AdapterParseError:
                return None
        if "[[" not in spoken:
            return None
        try:
            reading = ChatAdapter().parse(signature, Choice(spoken))
        except AdapterParseError:
            return None
        return Reading(reading.outputs, ("markers-in-json", *reading.notes))

    def _error(
        self, signature: Signature, text: str, problem: str
    ) -> AdapterParseError:
        return AdapterParseError(
            self.name, signature.signature, problem=problem, text=text
        )


def write_outputs(signature: Signature, outputs: Demo) -> str:
    """Give outputs as the JSON object that the model shall write."""
    found = {
        name: to_plain(outputs[name])
        for name in signature.output_fields
        if name in outputs
    }
    return json.dumps(found, ensure_ascii=False)


def _describe_task(signature: Signature) -> str:
    keys = "\n".join(
        f'- "{name}": {describe_value(field)}{describe_constraints(field)}'
        for name, field in signature.output_fields.items()
    )
    inputs = describe_fields(signature.input_fields.values())
    about = describe_fields(f for f in signature.output_fields.values() if f.desc)
    parts = [
        f"Task: {signature.instructions}",
        f"You are given:\n{inputs}" if inputs else "",
        f"Write one JSON object with these keys, in this order:\n{keys}",
        f"What they mean:\n{about}" if about else "",
    ]
    return "\n\n".join(part for part in parts if part)


def _reminder(signature: Signature) -> str:
    names = ", ".join(f'"{name}"' for name in signature.output_fields)
    return f"Write only the JSON object with {names}."
