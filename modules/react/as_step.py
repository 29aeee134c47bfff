"""ReAct as a step of a program: its tools come by name, as a file can give them."""

from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from typing import Any, Final, cast

from dspex.modules.adapters.values import to_plain
from dspex.modules.errors import ConfigError
from dspex.modules.plain import is_object
from dspex.modules.prediction import Prediction
from dspex.modules.react.agent import ReAct
from dspex.modules.react.budget import SPENT, Budget
from dspex.modules.react.errors import AgentStoppedError
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


_FACTS: Final[Mapping[str, Any]] = {  # Any: types
    "success": bool,
    "reason": str,
    "trajectory": dict[str, Any],
}
_LIMITS: Final = ("tokens", "seconds", "cost")


class StepAgent(ReAct):
    """An agent that is a step: the facts it is asked for are outputs too.

    What else a step gives has its declared type. An agent that has spent its tokens,
    seconds or money has no outputs: it fails, unless `success` is among its facts.
    """

    added_outputs: Mapping[str, Any] = {}  # Any: types

    async def forward(self, /, **inputs: Any) -> Prediction:  # Any: as declared
        """Work until the model is done or the budget is; raises what ReAct raises.

        Raises:
            AgentStoppedError: the budget is spent, and nothing tells so.
        """
        found = await super().forward(**inputs)
        if found.reason in SPENT and "success" not in self.added_outputs:
            raise AgentStoppedError(found.reason, len(found.steps), found.trajectory)
        if not self.added_outputs:
            return found
        facts = {name: to_plain(found.facts[name]) for name in self.added_outputs}
        return Prediction.of([{**found.outputs, **facts}], facts=found.facts)


def react_step(
    signature: SignatureLike,
    *,
    demos: Sequence[Mapping[str, Any]] = (),  # Any: as the signature declares
    tools: object = (),
    budget: object = None,
    facts: object = (),
    **config: Any,  # Any: ReAct checks them
) -> ReAct:
    """Make the agent of a step; `tools` are names, or `module:attribute`.

    There are `calculator` and `python`; anything else is imported: a function, or a
    `Tool` of one. `budget` has `tokens`, `seconds` and `cost` (US dollars); `facts`
    are those of `success`, `reason` and `trajectory` that become outputs.

    Raises:
        ConfigError: the tools are no list of names, one cannot be found, a limit or
            fact is none, or there are demos, which an agent does not take.
        ToolDefinitionError: what a name stands for cannot be a tool.
    """
    if demos:
        raise ConfigError("demos", len(demos), "are not for ReAct")
    if not isinstance(tools, list | tuple):
        raise ConfigError("tools", tools, "is no list of names")
    found = [find_tool(name) for name in cast("Sequence[object]", tools)]
    agent = StepAgent(signature, found, budget=_budget(budget), **config)
    agent.added_outputs = _facts(facts, agent)
    return agent


def _budget(given: object) -> Budget:
    if given is None:
        return Budget()
    if not is_object(given):
        raise ConfigError("budget", given, f"is no mapping of {', '.join(_LIMITS)}")
    for name, value in given.items():
        if name not in _LIMITS:
            problem = f"has no {name!r}; it has {', '.join(_LIMITS)}"
            raise ConfigError("budget", {name: value}, problem)
    return Budget(**given)


def _facts(given: object, agent: ReAct) -> Mapping[str, Any]:  # Any: types
    if not isinstance(given, list | tuple):
        raise ConfigError("facts", given, "is no list of names")
    names = cast("Sequence[object]", given)
    for name in names:
        if name not in _FACTS:
            raise ConfigError("facts", name, f"is none of {', '.join(_FACTS)}")
        if name in agent.signature.fields:
            raise ConfigError("facts", name, "is a field of the signature already")
    return {str(name): _FACTS[str(name)] for name in names}


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
