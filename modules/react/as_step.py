"""ReAct as a step of a program: its tools come by name, as a file can give them."""

from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from typing import Any, Final, cast

from dspex.modules.errors import ConfigError
from dspex.modules.react.agent import ReAct
from dspex.modules.react.turns import AnyTool
from dspex.modules.signature import SignatureLike
from dspex.modules.tools.calculator import calculator
from dspex.modules.tools.python_tool import python_tool
from dspex.modules.tools.tool import Function

# What makes each: a tool made here would cost every import of dspex its schema.
_BUILT_IN: Final[Mapping[str, Callable[[], AnyTool | Function]]] = {
    "calculator": lambda: calculator,
    "python": python_tool,
}


def react_step(
    signature: SignatureLike,
    *,
    demos: Sequence[Mapping[str, Any]] = (),  # Any: as the signature declares
    tools: object = (),
    **config: Any,  # Any: ReAct checks them
) -> ReAct:
    """Make the agent of a step; `tools` are names, or `module:attribute`.

    There are `calculator` and `python`; anything else is imported: a function, or a
    `Tool` of one.

    Raises:
        ConfigError: the tools are no list of names, one cannot be found, or there are
            demos, which an agent does not take.
        ToolDefinitionError: what a name stands for cannot be a tool.
    """
    if demos:
        raise ConfigError("demos", len(demos), "are not for ReAct")
    if not isinstance(tools, list | tuple):
        raise ConfigError("tools", tools, "is no list of names")
    found = [find_tool(name) for name in cast("Sequence[object]", tools)]
    return ReAct(signature, found, **config)


def find_tool(name: object) -> AnyTool | Function:
    """Give the tool that a name stands for.

    Raises:
        ConfigError: there is none.
    """
    if not isinstance(name, str):
        raise ConfigError("tools", name, "is no name")
    if name in _BUILT_IN:
        return _BUILT_IN[name]()
    module, colon, attribute = name.partition(":")
    if not colon:
        known = ", ".join(_BUILT_IN)
        problem = f"is unknown; there are {known}, and 'package.module:function'"
        raise ConfigError("tools", name, problem)
    try:
        imported: AnyTool | Function = getattr(import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise ConfigError("tools", name, f"cannot be imported: {error}") from error
    return imported
