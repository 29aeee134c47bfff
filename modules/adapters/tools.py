"""The provider's own tool calls: to call tools, or to give outputs as arguments."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from dspex.modules.adapters.chat import ChatAdapter
from dspex.modules.adapters.json import JSONAdapter
from dspex.modules.adapters.prompt import with_messages
from dspex.modules.adapters.protocol import Adapter, Demo, Reading
from dspex.modules.adapters.schema import output_schema
from dspex.modules.errors import AdapterParseError
from dspex.modules.fields import Field
from dspex.modules.plain import is_list
from dspex.modules.signature import Inputs, Signature
from dspex.modules.tools.calls import ToolCalls
from dspex.modules.tools.tool import Tool
from dspex.providers.lm import Capabilities
from dspex.providers.messages import Choice, Message, Request, ToolCall, ToolSpec

ANSWER: Final = "answer"


class ToolsAdapter:
    """Speaks to models by their tool calls, where they have them.

    A signature with an input of `Tool`s and an output `ToolCalls` is asked with these
    tools; the calls become the output. For any other signature one tool is offered
    whose arguments are the outputs, and must be called.

    With `offer=False` the tools are described in the `inner` adapter's prompt (chat
    unless given), and calls are read in either form; that is what a model without
    tools gets, see `for_model`.
    """

    name = "ToolsAdapter"

    def __init__(self, inner: Adapter | None = None, *, offer: bool = True) -> None:
        self.inner: Adapter = inner or ChatAdapter()
        self.offer = offer
        self._json = JSONAdapter()

    def for_model(self, capabilities: Capabilities) -> "ToolsAdapter":
        """Give the adapter that a model of these capabilities can be asked with."""
        if capabilities.tools or not self.offer:
            return self
        return ToolsAdapter(self.inner, offer=False)

    def format(
        self,
        signature: Signature,
        *,
        demos: Sequence[Demo],
        inputs: Inputs,
        capabilities: Capabilities,
    ) -> Request:
        """Give the request with its tools."""
        calls = calls_field(signature)
        if not self.offer:
            return self.inner.format(
                signature, demos=demos, inputs=inputs, capabilities=capabilities
            )
        if calls is not None:
            return self._offer_tools(
                signature, demos=demos, inputs=inputs, capabilities=capabilities
            )
        schema = output_schema(signature)
        if schema is None:
            return self.inner.format(
                signature, demos=demos, inputs=inputs, capabilities=capabilities
            )
        request = self._json.format(
            signature,
            demos=demos,
            inputs=inputs,
            capabilities=replace(capabilities, json_schema=False),
        )
        spec = ToolSpec(ANSWER, "Give the answer.", schema.schema)
        return replace(request, tools=(spec,), tool_choice=ANSWER)

    def parse(self, signature: Signature, choice: Choice) -> Reading:
        """Read the outputs from the tool calls, else from the text.

        Raises:
            AdapterParseError: an output is missing or wrong.
        """
        calls = calls_field(signature)
        if calls is None:
            return self._parse_answer(signature, choice)
        rest = without_tools(signature) if self.offer else signature
        if not choice.tool_calls:
            reading = self.inner.parse(rest, choice)
            return Reading(_in_order(signature, reading.outputs), reading.notes)
        outputs: dict[str, Any] = {}  # Any: as the signature declares
        if choice.text.strip() and rest.output_fields:
            try:
                outputs.update(self.inner.parse(rest, choice).outputs)
            except AdapterParseError:
                # The model called tools instead of answering, which is its right.
                outputs.clear()
        try:
            outputs[calls.name] = ToolCalls.from_provider(choice.tool_calls)
        except ValueError as error:
            raise AdapterParseError(
                self.name,
                signature.signature,
                problem=str(error),
                text=choice.tool_calls[0].arguments,
                field=calls.name,
                expected="tool calls with JSON arguments",
            ) from None
        return Reading(_in_order(signature, outputs))

    def repair(self, request: Request, choice: Choice, problem: str) -> Request:
        """Give the request that shows the model what is wrong with its answer."""
        if not choice.tool_calls:
            return self.inner.repair(request, choice, problem)
        calls = tuple(
            ToolCall(call.id or f"call_{index}", call.name, call.arguments)
            for index, call in enumerate(choice.tool_calls)
        )
        answers = [
            Message.tool(f"Not accepted: {problem}. Call it again.", call_id=call.id)
            for call in calls
        ]
        said = Message.assistant(choice.text, tool_calls=calls)
        return with_messages(request, [*request.messages, said, *answers])

    def _offer_tools(
        self,
        signature: Signature,
        *,
        demos: Sequence[Demo],
        inputs: Inputs,
        capabilities: Capabilities,
    ) -> Request:
        tools = [
            t for f in tool_fields(signature) for t in _tools_in(inputs.get(f.name))
        ]
        names = {field.name for field in tool_fields(signature)}
        request = self.inner.format(
            without_tools(signature),
            demos=demos,
            inputs={n: v for n, v in inputs.items() if n not in names},
            capabilities=replace(capabilities, json_schema=False),
        )
        return replace(request, tools=tuple(found.spec for found in tools))

    def _parse_answer(self, signature: Signature, choice: Choice) -> Reading:
        if choice.tool_calls:
            arguments = replace(choice, text=choice.tool_calls[0].arguments)
            return self._json.parse(signature, arguments)
        if not self.offer:
            return self.inner.parse(signature, choice)
        try:
            return self._json.parse(signature, choice)
        except AdapterParseError:
            return self.inner.parse(signature, choice)


def calls_field(signature: Signature) -> Field | None:
    """Give the output that takes tool calls, if there is one."""
    for field in signature.output_fields.values():
        if field.annotation is ToolCalls:
            return field
    return None


def tool_fields(signature: Signature) -> list[Field]:
    """Give the inputs that hold tools: `Tool` or `list[Tool]`."""
    return [
        field
        for field in signature.input_fields.values()
        if field.annotation in (Tool, list[Tool])
    ]


def without_tools(signature: Signature) -> Signature:
    """Give the signature without its tools and tool calls."""
    calls = calls_field(signature)
    for field in tool_fields(signature):
        signature = signature.delete(field.name)
    return signature if calls is None else signature.delete(calls.name)


def _tools_in(value: object) -> list[Tool]:
    if isinstance(value, Tool):
        return [value]
    found = value if is_list(value) else []
    return [item for item in found if isinstance(item, Tool)]


def _in_order(
    signature: Signature, outputs: Mapping[str, Any]
) -> dict[str, Any]:  # Any: as the signature declares
    return {
        name: outputs[name] if name in outputs else field.get_default()
        for name, field in signature.output_fields.items()
    }
