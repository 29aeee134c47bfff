"""Errors of tools.

ToolError
├── ToolDefinitionError    a function cannot be a tool
├── ToolCallError          a call of a tool has no result
│   ├── UnknownToolError   there is no tool of that name
│   ├── ToolArgumentsError the arguments do not fit
│   ├── ToolTimeoutError   it took too long
│   ├── ToolDeniedError    the approval hook said no
│   ├── ToolCrashedError   its process died
│   ├── MCPServerDiedError its MCP server died, or is not there
│   └── ToolFailedError    it raised an exception
├── DuplicateToolError     the name is taken
└── MCPServerGoneError     an MCP server ended, or did not start
"""

from collections.abc import Iterable
from difflib import get_close_matches

from dspex.runtime.errors import DspexError


class ToolError(DspexError):
    """Something is wrong with `tool`."""

    def __init__(self, tool: str, problem: str) -> None:
        super().__init__(f"tool {tool!r} {problem}")
        self.tool = tool
        self.problem = problem


class ToolDefinitionError(ToolError):
    """A function cannot be made a tool."""


class DuplicateToolError(ToolError):
    """Another tool has this name."""

    def __init__(self, tool: str) -> None:
        super().__init__(tool, "is there already: give one of them another name")


class ToolCallError(ToolError):
    """A call of a tool has no result; `observation` tells a model so in one line."""

    @property
    def observation(self) -> str:
        """What a model is shown."""
        return f"Error in {self.tool}: {' '.join(self.problem.split())}"


class UnknownToolError(ToolCallError):
    """There is no tool of this name."""

    def __init__(self, tool: str, known: Iterable[str]) -> None:
        names = tuple(known)
        close = get_close_matches(tool, names, n=1)
        hint = f"; did you mean {close[0]}?" if close else ""
        super().__init__(tool, f"is unknown; there are {', '.join(names)}{hint}")
        self.known = names


class ToolArgumentsError(ToolCallError):
    """The arguments do not fit the tool; nothing was run."""

    def __init__(self, tool: str, problem: str, usage: str) -> None:
        super().__init__(tool, f"got wrong arguments: {problem}. Use {usage}")
        self.usage = usage


class ToolTimeoutError(ToolCallError):
    """The tool took longer than it may."""

    def __init__(self, tool: str, seconds: float) -> None:
        super().__init__(tool, f"took longer than {seconds:g}s and was stopped")
        self.seconds = seconds


class ToolDeniedError(ToolCallError):
    """The approval hook did not allow the call; nothing was run."""

    def __init__(self, tool: str, reason: str = "") -> None:
        super().__init__(tool, f"was not allowed{': ' if reason else ''}{reason}")
        self.reason = reason


class ToolCrashedError(ToolCallError):
    """The process that ran the tool died before it had a result."""

    def __init__(self, tool: str, status: int, tail: str = "") -> None:
        said = f"; it said: {tail}" if tail else ""
        super().__init__(tool, f"crashed: its process ended with {status}{said}")
        self.status = status


class MCPServerDiedError(ToolCallError):
    """The MCP server died before the tool had a result, or is not there."""

    def __init__(self, tool: str, server: str, problem: str) -> None:
        super().__init__(tool, f"has lost its server {server!r}: {problem}")
        self.server = server


class MCPServerGoneError(ToolError):
    """An MCP server ended or did not start; `tail` is the last it wrote to stderr."""

    def __init__(
        self, server: str, command: Iterable[str], problem: str, tail: str = ""
    ) -> None:
        said = f"; it said: {tail}" if tail else ""
        self.command = tuple(command)
        super().__init__(server, f"({' '.join(self.command)}) {problem}{said}")
        self.tail = tail


class ToolFailedError(ToolCallError):
    """The tool raised an exception: `cause_type` and its text."""

    def __init__(self, tool: str, cause_type: str, text: str) -> None:
        super().__init__(tool, f"{cause_type}: {text}" if text else cause_type)
        self.cause_type = cause_type
        self.text = text
