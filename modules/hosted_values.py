"""Values of ours as the hosted dspy's own: images, examples, tools and their calls."""

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

from dspex.modules.media import History, Image
from dspex.modules.plain import is_list, is_object
from dspex.modules.prediction import Prediction
from dspex.modules.tools.calls import ToolCalls
from dspex.modules.tools.tool import Tool
from dspex.runtime import bridge


@runtime_checkable
class Row(Protocol):
    """An Example of the optimizers, which know this package and not the reverse."""

    @property
    def has_inputs(self) -> bool:
        """Whether it is known which values are inputs."""
        ...

    def inputs(self) -> dict[str, Any]:  # Any: values of whatever type
        """Give the inputs by name."""
        ...

    def labels(self) -> dict[str, Any]:  # Any: as above
        """Give what is no input."""
        ...


def for_dspy(value: object) -> object:
    """Give a value as the bridge takes it; in the hosted process it is dspy's type."""
    if isinstance(value, Image):
        url = value.url or f"data:{value.media_type};base64,{value.data}"
        return bridge.Image(url)
    if isinstance(value, History):
        return bridge.History(tuple(map(fields_for_dspy, value.messages)))
    if isinstance(value, Row) and value.has_inputs:
        inputs = value.inputs()
        fields = fields_for_dspy({**inputs, **value.labels()})
        return bridge.Example(fields, tuple(inputs))
    if isinstance(value, Prediction):
        return fields_for_dspy(value.outputs)
    if isinstance(value, ToolCalls):
        calls = ({"name": c.name, "args": c.args} for c in value.tool_calls)
        return bridge.ToolCalls(tuple(calls))
    if isinstance(value, Tool):
        return hosted_tool(value)
    if is_list(value):
        return [for_dspy(item) for item in value]
    if is_object(value):
        return fields_for_dspy(value)
    return value


def fields_for_dspy(
    fields: Mapping[str, Any],  # Any: whatever the signature says
) -> dict[str, object]:
    """Give the values of fields as the bridge takes them."""
    return {name: for_dspy(value) for name, value in fields.items()}


def hosted_tool(tool: Tool) -> bridge.HostedTool:
    """Give a tool as a hosted module is told of it; its calls come home."""
    return bridge.HostedTool(tool.name, tool.description, tool.schema)
