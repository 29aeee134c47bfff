"""What a model decides in one turn, whatever the protocol it was said in."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

from dspex.modules.react.trajectory import Trajectory
from dspex.modules.signature import Inputs
from dspex.modules.tools.errors import UnknownToolError
from dspex.providers.messages import ToolSpec

# Any: as the signature declares.
Outputs: TypeAlias = Mapping[str, Any]

FINISH = "finish"


class AnyTool(Protocol):
    """A tool an agent may use: a `Tool`, or one that a registry runs."""

    @property
    def name(self) -> str:
        """What the model calls it."""
        ...

    @property
    def description(self) -> str:
        """What it is for."""
        ...

    @property
    def schema(self) -> Mapping[str, Any]:  # Any: JSON schema
        """The JSON schema of its arguments."""
        ...

    @property
    def spec(self) -> ToolSpec:
        """What a provider is told."""
        ...

    @property
    def usage(self) -> str:
        """How to call it, in one line."""
        ...

    async def run(self, arguments: Mapping[str, Any], /) -> Any:  # Any: as the tool
        """Run it; raises ToolCallError."""
        ...


@dataclass(frozen=True, slots=True)
class Wanted:
    """A tool call that the model wants; `positional` go before the named ones."""

    tool: str
    arguments: Mapping[str, Any]  # Any: JSON
    thought: str = ""
    positional: tuple[Any, ...] = ()  # Any: JSON
    call_id: str | None = None


@dataclass(frozen=True, slots=True)
class CallTools:
    """The model wants these tools called, side by side if there are several."""

    calls: Sequence[Wanted]


@dataclass(frozen=True, slots=True)
class Finished:
    """The model is done; `outputs` is None if they have to be asked for."""

    outputs: Outputs | None = None
    step: Wanted | None = None


@dataclass(frozen=True, slots=True)
class Unreadable:
    """The model wrote what is no decision: its text, and what is wrong with it."""

    text: str
    problem: str


Turn: TypeAlias = CallTools | Finished | Unreadable


class TurnTaker(Protocol):
    """One way to ask a model for its next turn."""

    async def next_turn(self, inputs: Inputs, trajectory: Trajectory) -> Turn:
        """Ask for the next turn; raises ProviderError."""
        ...


def describe_tool(tool: AnyTool) -> str:
    """Give a tool as a line of a prompt: name, description, arguments."""
    about = f": {' '.join(tool.description.split())}" if tool.description else ""
    schema = json.dumps(tool.schema.get("properties", {}), ensure_ascii=False)
    return f"{tool.name}{about} Arguments: {schema}"


def by_name(tools: Mapping[str, AnyTool], name: str) -> AnyTool:
    """Give the tool of that name.

    Raises:
        UnknownToolError: there is none; the error lists them.
    """
    if name not in tools:
        raise UnknownToolError(name, [*tools, FINISH])
    return tools[name]
