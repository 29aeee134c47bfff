"""Outputs as one JSON object, by the provider's JSON schema where it has one."""

import json
from collections.abc import Sequence

from dspex.modules.adapters.chat import ChatAdapter
from dspex.modules.adapters.json_text import (
    JSONObject,
    load_object,
    loosely,
    without_thinking,
)
from dspex.modules.adapters.prompt import (
    describe_constraints,
    describe_fields,
    describe_value,
)
from dspex.modules.adapters.protocol import Demo, Outputs, Reading
from dspex.modules.adapters.schema import output_schema
from dspex.modules.adapters.text_adapter import EMPTY, TextAdapter
from dspex.modules.adapters.values import to_plain
from dspex.modules.errors import AdapterParseError
from dspex.modules.fields import Field
from dspex.modules.repair_parser import UnrepairableError
from dspex.modules.signature import Inputs, Signature
from dspex.providers.lm import Capabilities
from dspex.providers.messages import Choice, Request


class JSONAdapter(TextAdapter):
    """Inputs under markers, outputs as one JSON object, in the signature's order.

    A model that can is bound to the JSON schema of the outputs. `max_string_length`
    puts a `maxLength` on every string in it, in characters: small models need it, for
    they do not end a string by themselves.
    """

    name = "JSONAdapter"
    again = "Write the whole JSON object again."

    def __init__(self, *, max_string_length: int | None = None) -> None:
        super().__init__()
        self.max_string_length = max_string_length

    def describe_task(self, signature: Signature) -> str:
        """Give the task, and the keys of the object with their types."""
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

    def remind(self, signature: Signature) -> str:
        """Name the keys in their order."""
        names = ", ".join(f'"{name}"' for name in signature.output_fields)
        return f"Write only the JSON object with {names}."

    def write(self, signature: Signature, outputs: Demo) -> str:
        """Give outputs as a JSON object."""
        found = {
            name: to_plain(outputs[name])
            for name in signature.output_fields
            if name in outputs
        }
        return json.dumps(found, ensure_ascii=False)

    def place(self, field: Field) -> str:
        """Name the key."""
        return f"key {field.name!r}"

    def format(
        self,
        signature: Signature,
        *,
        demos: Sequence[Demo],
        inputs: Inputs,
        capabilities: Capabilities,
    ) -> Request:
        """Give the conversation, and the schema where the model follows one."""
        request = super().format(
            signature, demos=demos, inputs=inputs, capabilities=capabilities
        )
        if not capabilities.json_schema:
            return request
        schema = output_schema(signature, max_string_length=self.max_string_length)
        return Request(request.messages, schema)

    def parse(self, signature: Signature, choice: Choice) -> Reading:
        """Read the outputs from the JSON object in the answer.

        Raises:
            AdapterParseError: there is none, or an output is missing or wrong.
        """
        text = choice.text
        if not text.strip():
            raise self.error(signature, text, EMPTY)
        found, problem = None, "there is no JSON object in it"
        try:
            found = load_object(text)
        except UnrepairableError as error:
            problem = str(error)
        try:
            if found is None:
                raise self.error(signature, text, problem)
            return self.read_outputs(signature, text, found, [])
        except AdapterParseError:
            reading = self._read_loosely(signature, choice, found)
            if reading is None:
                raise
            return reading

    def read(self, signature: Signature, found: Outputs) -> Reading:
        """Read the outputs from an object, such as the arguments of a tool call.

        Raises:
            AdapterParseError: an output is missing or wrong.
        """
        text = json.dumps(found, default=str)
        return self.read_outputs(signature, text, found, [])

    def _read_loosely(
        self, signature: Signature, choice: Choice, found: JSONObject | None
    ) -> Reading | None:
        spoken = without_thinking(choice.text)
        start: list[str] = []
        if spoken != choice.text:
            try:
                start, found = ["thinking"], load_object(spoken)
            except UnrepairableError:
                return None
        forgiven = None if found is None else loosely(found, signature)
        if forgiven is not None:
            read, notes = forgiven
            try:
                return self.read_outputs(signature, choice.text, read, [*start, *notes])
            except AdapterParseError:
                return None
        if "[[" not in spoken:
            return None
        try:
            reading = ChatAdapter().parse(signature, Choice(spoken))
        except AdapterParseError:
            return None
        return Reading(reading.outputs, ("markers-in-json", *reading.notes))
