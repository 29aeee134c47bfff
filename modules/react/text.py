"""The protocol of text: `Thought: ...`, `Action[tool](args)`, at last `Finish[...]`."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import zip_longest
from typing import Any, Final

from dspex.modules.adapters.json import JSONAdapter
from dspex.modules.adapters.json_text import find_object
from dspex.modules.adapters.prompt import describe_fields, describe_value, input_content
from dspex.modules.adapters.values import UnreadableValueError, read_value
from dspex.modules.errors import AdapterParseError
from dspex.modules.exchange import Exchange
from dspex.modules.react.action import Action, ActionParseError, ActionParser, Finish
from dspex.modules.react.trajectory import Step, Trajectory
from dspex.modules.react.turns import (
    FINISH,
    AnyTool,
    CallTools,
    Finished,
    Turn,
    Unreadable,
    Wanted,
    describe_tool,
)
from dspex.modules.signature import Inputs, Signature
from dspex.providers.messages import Message, Request

_OBSERVATION: Final = "Observation:"


@dataclass(frozen=True, slots=True)
class TextProtocol:
    """Asks for one action at a time as text; the model stops at its observation."""

    signature: Signature
    tools: Mapping[str, AnyTool]
    exchange: Exchange
    settings: Mapping[str, Any]  # Any: fields of a request

    async def next_turn(self, inputs: Inputs, trajectory: Trajectory) -> Turn:
        """Ask for the next action."""
        request = Request(
            (
                Message.system(_describe_task(self.signature, self.tools)),
                Message.user(input_content(self.signature, inputs)),
                *_history(trajectory),
            )
        )
        settings = {"stop": (_OBSERVATION,), **self.settings, "n": 1}
        response = await self.exchange.complete_once(replace(request, **settings))
        # Whatever follows is the model's guess at what a tool would have said.
        text = response.text.partition(_OBSERVATION)[0]
        try:
            found = ActionParser().parse(text)
        except ActionParseError as error:
            return Unreadable(text, str(error))
        if isinstance(found, Action):
            return CallTools((self._wanted(found),))
        return self._read_finish(found)

    def _wanted(self, found: Action) -> Wanted:
        """Give the call; a bare number is text where the tool takes a string."""
        tool = self.tools.get(found.tool)
        types: dict[str, Any] = {}  # Any: JSON schema
        if tool is not None:
            types = {
                name: schema.get("type")
                for name, schema in tool.schema.get("properties", {}).items()
            }
        return Wanted(
            found.tool,
            {n: _as_text(value, types.get(n)) for n, value in found.arguments.items()},
            found.thought,
            tuple(
                _as_text(value, schema_type)
                for value, schema_type in zip_longest(
                    found.positional, list(types.values())[: len(found.positional)]
                )
            ),
        )

    def _read_finish(self, found: Finish) -> Turn:
        wanted = Wanted(FINISH, {"answer": found.answer}, found.thought)
        fields = list(self.signature.output_fields.values())
        try:
            if len(fields) == 1:
                value = read_value(fields[0], found.answer, [])
                return Finished({fields[0].name: value}, wanted)
            outputs = find_object(found.answer, self.signature)
            if outputs is None:
                names = ", ".join(field.name for field in fields)
                problem = f"Finish[...] needs a JSON object with {names}"
                return Unreadable(found.answer, problem)
            reading = JSONAdapter().read(self.signature, outputs)
        except UnreadableValueError as error:
            problem = f"`{fields[0].name}` must be {fields[0].type_name}: {error}"
            return Unreadable(found.answer, problem)
        except AdapterParseError as error:
            return Unreadable(found.answer, error.complaint)
        return Finished(reading.outputs, wanted)


def _as_text(value: object, schema_type: object) -> object:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return str(value) if is_number and schema_type == "string" else value


def _describe_task(signature: Signature, tools: Mapping[str, AnyTool]) -> str:
    outputs = list(signature.output_fields.values())
    if len(outputs) == 1:
        answer = f"{outputs[0].name}, {describe_value(outputs[0])}"
    else:
        names = ", ".join(f'"{f.name}": {describe_value(f)}' for f in outputs)
        answer = f"a JSON object with {names}"
    listed = "\n".join(f"- {describe_tool(tool)}" for tool in tools.values())
    return (
        f"Task: {signature.instructions}\n\n"
        f"You are given:\n{describe_fields(signature.input_fields.values())}\n\n"
        f"You find out:\n{describe_fields(outputs)}\n\n"
        f"You may use these tools:\n{listed}\n\n"
        "Work in steps. In each one write a line with what you think and a line with "
        "one action, then stop; you are told what it gave:\n\n"
        "Thought: what you think\nAction[tool](name=value, ...)\n\n"
        f"When you know the answer, write Finish[...] with {answer}."
    )


def _history(trajectory: Trajectory) -> list[Message]:
    messages: list[Message] = []
    if trajectory.dropped:
        note = f"({trajectory.dropped} earlier steps are left out)"
        messages.append(Message.user(note))
    for step in trajectory.shown:
        said = _said(step)
        if said.strip():
            messages.append(Message.assistant(said))
        shown = trajectory.show(step.observation)
        messages.append(Message.user(f"{_OBSERVATION} {shown}"))
    return messages


def _said(step: Step) -> str:
    if not step.tool:
        return step.thought
    arguments = step.to_json()["arguments"]
    return ActionParser().format(Action(step.tool, arguments, (), step.thought))
