"""ToolRegistry: tools by name, run under supervision."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from dspex.modules.queued_call import Patience, call_queued, take_call
from dspex.modules.tools.errors import (
    DuplicateToolError,
    ToolCallError,
    ToolDefinitionError,
    UnknownToolError,
)
from dspex.modules.tools.tool import NAME, Function, Tool, to_tool
from dspex.providers.messages import ToolSpec
from dspex.runtime import Actor, ActorRef, Deferred, Refuse

# What providers accept in a tool's name.
SEPARATOR: Final = "__"


@dataclass(frozen=True, slots=True)
class RegisteredTool:
    """A tool that a registry runs: for `ReAct(tools=...)`, from any task.

    Its calls run as tasks of the registry, so they end with it, and the limits of the
    tool hold for all its users together.
    """

    registry: ActorRef["ToolRegistry"]
    name: str
    description: str
    schema: Mapping[str, Any]  # Any: JSON schema
    usage: str
    timeout: float

    @property
    def spec(self) -> ToolSpec:
        """What a provider is told of it."""
        return ToolSpec(self.name, self.description, self.schema)

    async def run(self, arguments: Mapping[str, Any], /) -> Any:  # Any: as the tool
        """Have the registry run it; its `timeout` begins when its turn has come.

        Raises:
            ToolCallError: there is no result.
            CallError: the registry is gone, or takes no calls.
        """
        return await call_queued(
            self.registry,
            ToolRegistry.run_tool,
            self.name,
            arguments,
            timeout=self.timeout,
        )


class ToolRegistry(Actor):
    """Holds tools by name, in namespaces (`web__search`), and runs them.

    A call runs as a task of the registry within the tool's limits; one that fails
    fails its caller only.
    """

    def __init__(self, tools: Mapping[str, Tool] | None = None) -> None:
        self._tools: dict[str, Tool] = dict(tools or {})

    async def register(
        self, given: Tool | Function, namespace: str | None = None
    ) -> str:
        """Take a tool in; give its full name, `namespace__name` or `name`.

        Raises:
            DuplicateToolError: the name is taken.
            ToolDefinitionError: the function cannot be a tool, or the name is none.
        """
        try:
            tool = to_tool(given)
        except ToolDefinitionError as error:
            raise Refuse(error) from error
        name = tool.name if namespace is None else f"{namespace}{SEPARATOR}{tool.name}"
        if not NAME.fullmatch(name):
            raise Refuse(ToolDefinitionError(name, "has a namespace that is no name"))
        if name in self._tools:
            raise Refuse(DuplicateToolError(name))
        self._tools[name] = tool
        return name

    async def unregister(self, name: str) -> None:
        """Let a tool go; calls under way end as they end.

        Raises:
            UnknownToolError: there is no tool of that name.
        """
        self._find(name)
        del self._tools[name]

    async def lookup(self, name: str) -> RegisteredTool:
        """Give the tool of that name.

        Raises:
            UnknownToolError: there is none; the error lists them.
        """
        return self._handle(name, self._find(name))

    async def list_tools(
        self, namespace: str | None = None
    ) -> tuple[RegisteredTool, ...]:
        """Give all tools, or those of a namespace, in the order of registration."""
        start = "" if namespace is None else namespace + SEPARATOR
        return tuple(
            self._handle(name, tool)
            for name, tool in self._tools.items()
            if name.startswith(start)
        )

    # Any: as the tool gives.
    async def run_tool(
        self,
        name: str,
        arguments: Mapping[str, Any],
        patience: Patience | None = None,
    ) -> Deferred[Any]:
        """Run a tool and give its result.

        Raises:
            ToolCallError: there is no result; says why.
        """
        tool = self._find(name)
        take_call(patience)
        answer: Deferred[Any] = self.deferred()  # Any: as above
        scope = self.spawn(self._run, answer, tool, arguments)
        # What still waits for its approval is not run for a caller that has gone.
        answer.cancel_when_unwanted(scope)
        return answer

    async def _run(
        self,
        answer: Deferred[Any],  # Any: as above
        tool: Tool,
        arguments: Mapping[str, Any],  # Any: JSON
    ) -> None:
        try:
            found: object = await tool.run(arguments)
        except ToolCallError as error:
            answer.fail(error)
        else:
            answer.reply(found)

    def _find(self, name: str) -> Tool:
        tool = self._tools.get(name)
        if tool is None:
            raise Refuse(UnknownToolError(name, self._tools))
        return tool

    def _handle(self, name: str, tool: Tool) -> RegisteredTool:
        usage = tool.usage.replace(tool.name, name, 1)
        return RegisteredTool(
            self.ref, name, tool.description, tool.schema, usage, tool.timeout
        )
