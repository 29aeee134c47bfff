"""Tool: a function that a model may have called, with a schema and limits."""

import inspect
import json
import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeAlias, cast, get_type_hints, overload

import pydantic
import trio
from pydantic_core import core_schema

from dspex.modules.exits import find_exit
from dspex.modules.tools.arguments import first_misfit
from dspex.modules.tools.errors import (
    ToolArgumentsError,
    ToolCallError,
    ToolDefinitionError,
    ToolFailedError,
    ToolTimeoutError,
)
from dspex.modules.tools.guard import (
    APPROVE_SECONDS,
    Arguments,
    ask_approval,
    check_limits,
    with_retries,
)
from dspex.modules.tools.process import run_in_process
from dspex.modules.type_names import type_name
from dspex.providers.messages import ToolSpec
from dspex.runtime.reasons import text_of
from dspex.runtime.threads import run_in_thread

# Any: a tool takes and gives what its function does.
Function: TypeAlias = Callable[..., Any]
Approval: TypeAlias = Callable[["Tool", Arguments], Awaitable[bool | str]]
Backend: TypeAlias = Literal["native", "python"]

NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_-]{0,63}")
_MAX_LOST_THREADS: Final = 32
_ARGUMENT_LINE: Final = re.compile(r"\s+(\w+)\s*(?:\([^)]*\))?:\s+(.+)")


@dataclass(frozen=True, slots=True)
class Parameter:
    """One argument of a tool."""

    name: str
    annotation: Any  # Any: a typing form
    validator: "pydantic.TypeAdapter[Any]"  # Any: the parameter's own type
    is_required: bool


class Tool:
    """A function with the schema of its arguments and the limits of its calls.

    The schema comes from the annotations, the description from the docstring's first
    paragraph, those of the arguments from its `Args:` section. Each call has `timeout`
    seconds; at most `max_concurrency` run at once and others wait. `retries` repeats a
    failed call, and needs `idempotent=True`. `approve` is asked before each call: an
    async function of the tool and its arguments that gives True, or False, or why not;
    who has not answered within `approve_timeout` seconds has not said yes.

    A sync function runs in a thread, which cannot be stopped: after a timeout it goes
    on unseen, and with 32 such threads the tool is not run any more. With
    `backend="python"` the function runs in a process of its own, which is killed; it
    must be importable by its module and name, and its values be JSON.

    Raises:
        ToolDefinitionError: the function cannot be a tool; says why.
    """

    def __init__(
        self,
        function: Function,
        *,
        name: str | None = None,
        description: str | None = None,
        timeout: float = 30.0,
        max_concurrency: int = 8,
        retries: int = 0,
        idempotent: bool = False,
        backend: Backend = "native",
        approve: Approval | None = None,
        approve_timeout: float = APPROVE_SECONDS,
    ) -> None:
        self.function = function
        own: str = getattr(function, "__name__", type(function).__name__)
        self.name = name or own
        if not NAME.fullmatch(self.name):
            raise ToolDefinitionError(
                self.name, "needs a name of letters, digits, _ and -; pass name=..."
            )
        check_limits(
            self.name,
            max_concurrency=max_concurrency,
            retries=retries,
            timeout=timeout,
            approve_timeout=approve_timeout,
        )
        if retries and not idempotent:
            raise ToolDefinitionError(
                self.name, "may only be retried if it is declared idempotent=True"
            )
        doc = inspect.getdoc(function) or ""
        self.description = description or doc.split("\n\n")[0].strip()
        self.timeout = timeout
        self.retries = retries
        self.backend: Backend = backend
        self.approve = approve
        self.approve_timeout = approve_timeout
        # Their own threads: one that never comes back is not missed by anyone else.
        self._threads = trio.CapacityLimiter(max_concurrency + _MAX_LOST_THREADS)
        self._slots = trio.Semaphore(max_concurrency)
        self.parameters, self.takes_any = _read_parameters(self.name, function)
        self.schema: Mapping[str, Any] = self._build_schema(doc)  # Any: JSON schema
        if backend == "python":
            _check_importable(self.name, function)

    @property
    def spec(self) -> ToolSpec:
        """What a provider is told of the tool."""
        return ToolSpec(self.name, self.description, self.schema)

    @property
    def usage(self) -> str:
        """How to call it, in one line: `search(query: str, k: int = ...)`."""
        shown = [
            f"{p.name}: {type_name(p.annotation)}{'' if p.is_required else ' = ...'}"
            for p in self.parameters.values()
        ]
        if self.takes_any:
            shown.append("...")
        return f"{self.name}({', '.join(shown)})"

    def __repr__(self) -> str:
        return f"Tool({self.usage})"

    def __str__(self) -> str:
        about = f": {' '.join(self.description.split())}" if self.description else ""
        schema = json.dumps(self.schema["properties"], ensure_ascii=False)
        return f"{self.name}{about} Arguments: {schema}"

    @classmethod
    def __get_pydantic_core_schema__(
        cls,
        source: object,
        handler: object,
    ) -> core_schema.CoreSchema:
        """Let a tool be the type of a signature's field."""
        return core_schema.is_instance_schema(cls)

    def check(self, arguments: Arguments) -> dict[str, Any]:  # Any: as declared
        """Give the arguments as the function takes them.

        Raises:
            ToolArgumentsError: one is missing, unknown or wrong; shows the usage.
        """
        problem = first_misfit(dict(arguments), self.schema, self.schema)
        if problem is not None:
            raise ToolArgumentsError(self.name, problem, self.usage)
        checked: dict[str, Any] = {}  # Any: as declared
        for name, value in arguments.items():
            parameter = self.parameters.get(name)
            if parameter is None:
                checked[name] = value
                continue
            try:
                checked[name] = parameter.validator.validate_python(value)
            except pydantic.ValidationError as error:
                first = error.errors(include_url=False)[0]
                where = ".".join(map(str, (name, *first["loc"])))
                raise ToolArgumentsError(
                    self.name, f"{where}: {first['msg']}", self.usage
                ) from None
        return checked

    async def __call__(self, /, **arguments: Any) -> Any:  # Any: as declared
        """Check the arguments and run the function."""
        return await self.run(arguments)

    async def run(self, arguments: Arguments) -> Any:  # Any: what it gives
        """Check the arguments and run the function within its limits.

        Raises:
            ToolArgumentsError: the arguments do not fit; nothing was run.
            ToolDeniedError: the approval hook said no; nothing was run.
            ToolTimeoutError: it took too long.
            ToolCrashedError: its process died.
            ToolFailedError: it raised an exception.
        """
        checked = self.check(arguments)
        await ask_approval(
            self.name, self, arguments, self.approve, seconds=self.approve_timeout
        )

        async def once() -> Any:  # Any: what it gives
            async with self._slots:
                return await self._run_once(arguments, checked)

        return await with_retries(once, self.retries)

    async def _run_once(
        self, arguments: Arguments, checked: dict[str, Any]
    ) -> Any:  # Any: as declared
        if self.backend == "python":
            return await run_in_process(
                self.name, self.function, dict(arguments), timeout=self.timeout
            )
        with trio.move_on_after(self.timeout):
            return await self._run_here(checked)
        raise ToolTimeoutError(self.name, self.timeout)

    async def _run_here(self, checked: dict[str, Any]) -> Any:  # Any: as declared
        try:
            if _is_async(self.function):
                return await self.function(**checked)
            self._expect_a_thread()
            return await run_in_thread(
                lambda: self.function(**checked),
                limiter=self._threads,
                abandon_on_cancel=True,
            )
        except ToolCallError:
            raise
        # The edge between a tool and those who call it: what a tool raises is for
        # the model to see, and no reason for the agent to end.
        except BaseException as error:
            if not isinstance(error, Exception) and find_exit(error) is None:
                raise
            raise ToolFailedError(
                self.name, type(error).__name__, text_of(error)
            ) from error

    def _expect_a_thread(self) -> None:
        if self._threads.available_tokens < 1:
            raise ToolCallError(
                self.name,
                f"is not run any more: {self._threads.borrowed_tokens:g} of its "
                "threads have not come back; with backend='python' it can be stopped",
            )

    def _build_schema(self, doc: str) -> dict[str, Any]:  # Any: JSON schema
        about = _read_argument_lines(doc)
        parameters = self.parameters
        found, shared = pydantic.TypeAdapter.json_schemas(
            [(name, "validation", p.validator) for name, p in parameters.items()],
            ref_template="#/$defs/{model}",
        )
        properties: dict[str, Any] = {}  # Any: JSON schema
        for name in parameters:
            properties[name] = dict(found[(name, "validation")])
            if name in about:
                properties[name]["description"] = about[name]
        schema: dict[str, Any] = {  # Any: JSON schema
            "type": "object",
            "properties": properties,
            "required": [name for name, p in parameters.items() if p.is_required],
            "additionalProperties": self.takes_any,
        }
        if "$defs" in shared:
            schema["$defs"] = shared["$defs"]
        return schema


@overload
def tool(function: Function, /) -> Tool: ...


@overload
def tool(
    *,
    name: str | None = ...,
    description: str | None = ...,
    timeout: float = ...,
    max_concurrency: int = ...,
    retries: int = ...,
    idempotent: bool = ...,
    backend: Backend = ...,
    approve: Approval | None = ...,
    approve_timeout: float = ...,
) -> Callable[[Function], Tool]: ...


def tool(
    function: Function | None = None,
    /,
    **options: Any,  # Any: the overloads type them
) -> Tool | Callable[[Function], Tool]:
    """Make a function a tool: `@tool`, or `@tool(timeout=5)` with Tool's options."""
    if function is not None:
        return Tool(function)
    return lambda found: Tool(found, **options)


def to_tool(found: "Tool | Function") -> Tool:
    """Give the tool that a function stands for."""
    return found if isinstance(found, Tool) else Tool(found)


def _is_async(function: Function) -> bool:
    call = type(function).__call__
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(call)


def _read_parameters(
    name: str, function: Function
) -> tuple[dict[str, Parameter], bool]:
    described = (
        function if inspect.isroutine(function) else cast(Any, function).__call__
    )
    try:
        found = inspect.signature(function).parameters.values()
        hints = get_type_hints(described, include_extras=True)
    except (TypeError, ValueError, NameError) as error:
        raise ToolDefinitionError(name, f"has no readable signature: {error}") from None
    parameters: dict[str, Parameter] = {}
    takes_any = False
    for parameter in found:
        if parameter.kind is parameter.VAR_KEYWORD:
            takes_any = True
            continue
        if parameter.kind is parameter.VAR_POSITIONAL:
            continue
        if parameter.kind is parameter.POSITIONAL_ONLY:
            raise ToolDefinitionError(
                name, f"takes {parameter.name!r} by position only; tools go by name"
            )
        annotation = hints.get(parameter.name, Any)
        parameters[parameter.name] = Parameter(
            parameter.name,
            annotation,
            _validator(name, parameter.name, annotation),
            is_required=parameter.default is parameter.empty,
        )
    return parameters, takes_any


def _validator(
    tool: str,
    parameter: str,
    annotation: Any,  # Any: a typing form
) -> "pydantic.TypeAdapter[Any]":  # Any: the parameter's own type
    try:
        found: pydantic.TypeAdapter[Any] = pydantic.TypeAdapter(
            annotation
        )  # Any: as above
        found.json_schema()
    except (
        pydantic.PydanticUserError,
        pydantic.errors.PydanticInvalidForJsonSchema,
    ) as error:
        raise ToolDefinitionError(
            tool, f"has an argument {parameter!r} without JSON schema: {error}"
        ) from None
    return found


def _read_argument_lines(doc: str) -> dict[str, str]:
    """Give the lines of a docstring's `Args:` section, by argument."""
    _, _, section = doc.partition("Args:\n")
    found: dict[str, str] = {}
    for line in section.splitlines():
        match = _ARGUMENT_LINE.match(line)
        if match:
            found[match[1]] = match[2].strip()
        elif line.strip() and not line[0].isspace():
            break
    return found


def _check_importable(name: str, function: Function) -> None:
    qualified = getattr(function, "__qualname__", "<object>")
    module = getattr(function, "__module__", None)
    if module in (None, "__main__") or "<" in qualified:
        raise ToolDefinitionError(
            name,
            f"must be at the top of an importable module for backend='python', not "
            f"{module}.{qualified}",
        )
