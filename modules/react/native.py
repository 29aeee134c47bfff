"""The protocol of native tools: the provider's own tool calls, several at once."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from dspex.modules.adapters.json import JSONAdapter
from dspex.modules.adapters.prompt import describe_fields, input_content
from dspex.modules.adapters.schema import output_schema
from dspex.modules.errors import AdapterParseError
from dspex.modules.exchange import Exchange
from dspex.modules.react.trajectory import Step, Trajectory
from dspex.modules.react.turns import (
    FINISH,
    AnyTool,
    CallTools,
    Finished,
    Turn,
    Unreadable,
    Wanted,
)
from dspex.modules.signature import Inputs, Signature
from dspex.modules.tools.calls import read_arguments
from dspex.providers.messages import Choice, Message, Request, ToolCall, ToolSpec


@dataclass(frozen=True, slots=True)
class NativeProtocol:
    """Offers the tools, and one more, `finish`, whose arguments are the outputs."""

    signature: Signature
    tools: Mapping[str, AnyTool]
    exchange: Exchange
    settings: Mapping[str, Any]  # Any: fields of a request

    async def next_turn(self, inputs: Inputs, trajectory: Trajectory) -> Turn:
        """Ask for the next tool calls."""
        request = Request(
            (
                Message.system(_describe_task(self.signature)),
                Message.user(input_content(self.signature, inputs)),
                *_history(trajectory),
            ),
            tools=(*(tool.spec for tool in self.tools.values()), self._finish()),
        )
        request = replace(request, **self.settings, n=1)
        response = await self.exchange.complete_once(request)
        choice = response.choices[0]
        if not choice.tool_calls:
            return self._read_text(choice)
        wanted: list[Wanted] = []
        for index, call in enumerate(choice.tool_calls):
            try:
                arguments = read_arguments(call.arguments)
            except ValueError as error:
                return Unreadable(call.arguments, f"the call of {call.name}: {error}")
            thought = choice.text.strip() if index == 0 else ""
            call_id = call.id or f"call_{len(trajectory.steps) + index}"
            wanted.append(Wanted(call.name, arguments, thought, call_id=call_id))
        if wanted[0].tool == FINISH:
            return self._read_finish(wanted[0])
        # What comes with other calls is no end yet: their results are not known.
        return CallTools([call for call in wanted if call.tool != FINISH])

    def _finish(self) -> ToolSpec:
        schema = output_schema(self.signature)
        return ToolSpec(
            FINISH, "Give the answer and end.", {} if schema is None else schema.schema
        )

    def _read_finish(self, wanted: Wanted) -> Turn:
        try:
            reading = JSONAdapter().read(self.signature, dict(wanted.arguments))
        except AdapterParseError as error:
            return Unreadable(str(dict(wanted.arguments)), error.complaint)
        return Finished(reading.outputs, wanted)

    def _read_text(self, choice: Choice) -> Turn:
        try:
            reading = JSONAdapter().parse(self.signature, choice)
        except AdapterParseError:
            return Unreadable(
                choice.text, f"call one of the tools, or {FINISH} with the answer"
            )
        return Finished(reading.outputs)


def _describe_task(signature: Signature) -> str:
    return (
        f"Task: {signature.instructions}\n\n"
        f"You are given:\n{describe_fields(signature.input_fields.values())}\n\n"
        f"You find out:\n{describe_fields(signature.output_fields.values())}\n\n"
        f"Use the tools as far as you need them, then call {FINISH} with the answer."
    )


def _history(trajectory: Trajectory) -> list[Message]:
    messages: list[Message] = []
    if trajectory.dropped:
        note = f"({trajectory.dropped} earlier steps are left out)"
        messages.append(Message.user(note))
    for step in trajectory.shown:
        shown = trajectory.show(step.observation)
        if step.call_id is None:
            # A turn that could not be read: shown as what was said, and why not.
            said = [Message.assistant(step.thought)] if step.thought.strip() else []
            messages += [*said, Message.user(shown)]
        else:
            messages += [_call_message(step), Message.tool(shown, call_id=step.call_id)]
    return messages


def _call_message(step: Step) -> Message:
    arguments = step.to_json()["arguments"]
    call = ToolCall(
        step.call_id or "", step.tool, json.dumps(arguments, ensure_ascii=False)
    )
    return Message.assistant(step.thought, tool_calls=(call,))
