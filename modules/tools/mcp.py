"""Tools of an MCP server: a child process that speaks MCP over stdin and stdout.

`MCPServer` is the actor that owns the child. It starts with it and ends with it: when
the child dies, the calls under way fail, the actor crashes, and its supervisor starts
both anew. The tools follow the actor's name, so an agent that holds them goes on. When
the server says that its tools have changed they are asked for again.
"""

import json
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Final, Never, TypeAlias, cast

import trio

from dspex.modules.plain import is_object
from dspex.modules.queued_call import Patience, call_queued, take_call
from dspex.modules.tools.arguments import first_misfit
from dspex.modules.tools.errors import (
    MCPServerDiedError,
    MCPServerGoneError,
    ToolArgumentsError,
    ToolCallError,
    ToolDefinitionError,
    ToolFailedError,
    ToolTimeoutError,
    UnknownToolError,
)
from dspex.modules.tools.guard import (
    APPROVE_SECONDS,
    Arguments,
    ask_approval,
    check_limits,
    with_retries,
)
from dspex.modules.tools.mcp_process import MCPProcess, open_mcp_process
from dspex.providers.errors import MissingPackageError
from dspex.providers.messages import ToolSpec
from dspex.runtime import Actor, ActorRef, CallError, Deferred, Refuse
from dspex.runtime.errors import ChildStartError
from dspex.runtime.log import get_logger
from dspex.runtime.registry import Registry

log = get_logger()

# What JSON-RPC says when the other side has closed the connection.
_CONNECTION_CLOSED: Final = -32000

_TOOLS_CHANGED: Final = "notifications/tools/list_changed"
_START_SECONDS: Final = 30.0


@dataclass(frozen=True, slots=True)
class MCPTool:
    """A tool of an MCP server, for `ReAct(tools=...)`, from any task."""

    registry: Registry
    server: str
    name: str
    description: str
    schema: Mapping[str, Any]  # Any: JSON schema
    timeout: float
    retries: int = 0
    approve: "MCPApproval | None" = None
    approve_timeout: float = APPROVE_SECONDS

    @property
    def spec(self) -> ToolSpec:
        """What a provider is told of it."""
        return ToolSpec(self.name, self.description, self.schema)

    @property
    def usage(self) -> str:
        """How to call it, in one line: `search(query: string, k: integer = ...)`."""
        required = self.schema.get("required", ())
        shown = [
            f"{name}: {about.get('type', 'any')}{'' if name in required else ' = ...'}"
            for name, about in self.schema.get("properties", {}).items()
        ]
        return f"{self.name}({', '.join(shown)})"

    async def run(self, arguments: Arguments, /) -> Any:  # Any: JSON
        """Have the server run it; waits for one that is being restarted.

        Its `timeout` begins when its turn has come.

        Raises:
            ToolArgumentsError: the arguments do not fit; nothing was sent.
            ToolDeniedError: the approval hook said no; nothing was sent.
            ToolTimeoutError: it took too long.
            MCPServerDiedError: the server died first, or is gone.
            UnknownToolError: the server has it no more.
            ToolFailedError: the server says that it failed.
        """
        problem = first_misfit(dict(arguments), self.schema, self.schema)
        problem = problem or _why_not_json(arguments)
        if problem is not None:
            raise ToolArgumentsError(self.name, problem, self.usage)
        await ask_approval(
            self.name, self, arguments, self.approve, seconds=self.approve_timeout
        )
        return await with_retries(lambda: self._run_once(arguments), self.retries)

    async def _run_once(self, arguments: Arguments) -> Any:  # Any: JSON
        try:
            ref: ActorRef[MCPServer] = await self.registry.wait_for(
                self.server, self.timeout
            )
            return await call_queued(
                ref, MCPServer.run_tool, self.name, arguments, timeout=self.timeout
            )
        except CallError as error:
            raise MCPServerDiedError(self.name, self.server, str(error)) from error


MCPApproval: TypeAlias = Callable[[MCPTool, Arguments], Awaitable[bool | str]]
"""Asked before each call of a tool: gives True, or False, or why not."""


class MCPServer(Actor):
    """Runs an MCP server as a child process, and its tools.

    `command` is the program with its arguments; of this process's environment it gets
    only what MCP's client passes on, and `env`. Each call has `timeout` seconds, and
    at most `max_concurrency` are under way. Start it under a name and a supervisor.

    `approve` is asked before each call of any of its tools. `retries` repeats a failed
    call of the tools that `idempotent` names, also one that failed because the server
    died; what a server says of its tools by itself is not taken for that.

    Raises (as the reason of a failed start):
        MissingPackageError: the extra `mcp` is not installed.
        MCPServerGoneError: the server ended, or did not answer in `start_timeout`.
        ToolDefinitionError: `idempotent` names a tool that it has not, or `retries`
            are asked for of none.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        cwd: str | Path | None = None,
        timeout: float = 30.0,
        start_timeout: float = _START_SECONDS,
        max_concurrency: int = 8,
        retries: int = 0,
        idempotent: Collection[str] = (),
        approve: MCPApproval | None = None,
        approve_timeout: float = APPROVE_SECONDS,
    ) -> None:
        check_limits(
            command[0],
            max_concurrency=max_concurrency,
            retries=retries,
            timeout=timeout,
            start_timeout=start_timeout,
            approve_timeout=approve_timeout,
        )
        if retries and not idempotent:
            raise ToolDefinitionError(
                command[0], "may only retry the tools that idempotent=... names"
            )
        self._command = list(command)
        self._env = dict(env or {})
        self._cwd = cwd
        self._timeout = timeout
        self._start_timeout = start_timeout
        self._slots = trio.Semaphore(max_concurrency)
        self._retries = retries
        self._idempotent = frozenset(idempotent)
        self._approve = approve
        self._approve_timeout = approve_timeout
        self._ready = trio.Event()
        self._session: Any = None  # Any: the extra is not always there to be typed
        self._tools: dict[str, MCPTool] = {}
        self._tools_changed = trio.Event()
        self._failure: Exception | None = None
        self._process: MCPProcess | None = None

    async def init(self) -> None:
        """Start the server and ask for its tools."""
        require_mcp()
        self.spawn(self._serve)
        with trio.move_on_after(self._start_timeout):
            await self._ready.wait()
        if self._failure is not None:
            raise self._failure
        if self._session is None:
            seconds = self._start_timeout
            raise self._gone(f"did not answer within {seconds:g}s of its start")
        unknown = sorted(self._idempotent.difference(self._tools))
        if unknown:
            known = ", ".join(self._tools) or "none"
            raise ToolDefinitionError(
                unknown[0], f"is no tool of {self.name!r}; there are {known}"
            )

    async def list_tools(self) -> tuple[MCPTool, ...]:
        """Give the server's tools, as it listed them last.

        It does so when it starts, and again when it says that they have changed.
        """
        return tuple(self._tools.values())

    # Any: JSON.
    async def run_tool(
        self,
        name: str,
        arguments: Mapping[str, Any],
        patience: Patience | None = None,
    ) -> Deferred[Any]:
        """Have the server run a tool.

        Raises:
            ToolCallError: there is no result; says why.
        """
        if name not in self._tools:
            raise Refuse(UnknownToolError(name, self._tools))
        take_call(patience)
        answer: Deferred[Any] = self.deferred()  # Any: as above
        self.spawn(self._run, answer, name, dict(arguments))
        return answer

    async def _run(
        self,
        answer: Deferred[Any],  # Any: as above
        name: str,
        arguments: dict[str, Any],  # Any: as above
    ) -> None:
        error: ToolCallError = ToolTimeoutError(name, self._timeout)
        async with self._slots:
            if not answer.is_wanted:
                return
            with trio.move_on_after(self._timeout):
                try:
                    result = await self._session.call_tool(name, arguments)
                except require_mcp().MCPError as failure:
                    if self._has_closed(failure.code):
                        # The callers hear of the actor's death, when its name is
                        # free: whoever tries again then waits for the next one.
                        raise self._gone("ended") from None
                    error = ToolFailedError(name, "MCPError", failure.message)
                # What MCP's client raises of an answer that does not fit: this call
                # has failed, and no other.
                except (RuntimeError, ValueError) as failure:
                    error = ToolFailedError(name, type(failure).__name__, str(failure))
                else:
                    if not result.is_error:
                        answer.reply(_value_of(result))
                        return
                    error = ToolFailedError(name, "the server", _text_of(result))
        answer.fail(error)

    def _has_closed(self, code: int) -> bool:
        # A server may use the code for errors of its own.
        process = self._process
        return (
            code == _CONNECTION_CLOSED
            and process is not None
            and process.closed.is_set()
        )

    async def _serve(self) -> None:
        mcp = require_mcp()
        # The last two are what the client raises of answers that are not MCP.
        failures = (OSError, ChildStartError, mcp.MCPError, RuntimeError, ValueError)
        try:
            async with open_mcp_process(
                self._command,
                name=self.name,
                env=self._env,
                cwd=None if self._cwd is None else str(self._cwd),
            ) as process:
                self._process = process
                async with mcp.ClientSession(
                    *process.streams, message_handler=self._hear
                ) as session:
                    await session.initialize()
                    await self._read_tools(session)
                    self._session = session
                    self._ready.set()
                    async with trio.open_nursery() as nursery:
                        nursery.start_soon(self._follow_tools, session)
                        await process.closed.wait()
                        nursery.cancel_scope.cancel()
        except failures as error:
            failure = error
        except BaseExceptionGroup as group:
            failed, rest = group.split(failures)
            if failed is None or rest is not None:
                raise
            failure = _first(failed)
        else:
            raise self._gone("ended")
        if self._ready.is_set():
            raise self._gone(f"ended: {_line(failure)}") from failure
        self._failure = self._gone(f"did not start: {_line(failure)}")
        self._ready.set()

    async def _hear(self, message: object) -> None:
        # In the session's own task, which reads no answer meanwhile.
        if getattr(message, "method", None) == _TOOLS_CHANGED:
            self._tools_changed.set()

    async def _follow_tools(self, session: Any) -> Never:  # Any: as above
        """Read the tools again whenever they have changed; what fails changes none."""
        mcp = require_mcp()
        while True:
            await self._tools_changed.wait()
            self._tools_changed = trio.Event()
            problem = f"no answer within {self._timeout:g}s"
            with trio.move_on_after(self._timeout):
                try:
                    await self._read_tools(session)
                except (mcp.MCPError, RuntimeError, ValueError) as error:
                    problem = _line(error)
                else:
                    log.info("mcp_tools_read", server=self.name, tools=len(self._tools))
                    continue
            log.warning("mcp_tools_not_read", server=self.name, reason=problem)

    async def _read_tools(self, session: Any) -> None:  # Any: as above
        types = import_module("mcp.types")
        page: Any = await session.list_tools()  # Any: as above
        found: list[Any] = list(page.tools)
        while page.next_cursor is not None:
            following = types.PaginatedRequestParams(cursor=page.next_cursor)
            page = await session.list_tools(params=following)
            found.extend(page.tools)
        self._tools = {
            tool.name: MCPTool(
                self.node.registry,
                self.name,
                tool.name,
                tool.description or "",
                tool.input_schema,
                self._timeout,
                self._retries if tool.name in self._idempotent else 0,
                self._approve,
                self._approve_timeout,
            )
            for tool in found
        }

    def _gone(self, problem: str) -> MCPServerGoneError:
        said = () if self._process is None else self._process.child.stderr_tail
        tail = said[-1] if said else ""
        return MCPServerGoneError(self.name, self._command, problem, tail)


def require_mcp() -> Any:  # Any: the extra is not always there to be typed
    """Give the package `mcp`.

    Raises:
        MissingPackageError: it is not installed.
    """
    try:
        return import_module("mcp")
    except ImportError:
        raise MissingPackageError(
            "MCP servers need the package mcp: pip install 'dspex[mcp]'", provider="mcp"
        ) from None


def _value_of(result: Any) -> object:  # Any: as above
    """Give what a tool gave: its structured value where it has one, else its text."""
    value: object = result.structured_content
    if is_object(value) and list(value) == ["result"]:
        inner: object = value["result"]
        return inner
    return _text_of(result) if value is None else value


def _text_of(result: Any) -> str:  # Any: as above
    return "\n".join(
        part.text if part.type == "text" else f"({part.type})"
        for part in result.content
    )


def _why_not_json(arguments: Arguments) -> str | None:
    """Say what keeps arguments from being sent; it would end the server's session."""
    try:
        json.dumps(dict(arguments), ensure_ascii=False, allow_nan=False).encode()
    except (TypeError, ValueError, RecursionError) as error:
        return f"they are no JSON: {_line(error)}"
    return None


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    first = group.exceptions[0]
    while isinstance(first, BaseExceptionGroup):
        first = cast("BaseExceptionGroup[BaseException]", first).exceptions[0]
    return first
