"""What one asks of a bridge and what comes back, as data."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from dspex.runtime.bridge.protocol import Run
from dspex.runtime.bridge.values import pack

ModelHandler: TypeAlias = Callable[
    [dict[str, Any]],  # Any: the JSON of a provider's Request
    Awaitable[dict[str, Any]],  # Any: the JSON of its Response
]
"""Answers the model calls of one run: `Request.to_json()` in, `Response.to_json()`
out. Its exceptions reach the hosted dspy as dspy's own errors."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DspyCall:
    """One run of a hosted module.

    `module` is `dspy.Predict`, `dspy.ChainOfThought`, any other name in dspy, or
    `package.module:attribute` on the child's search path: a dspy module, a class of
    one, or a plain function. A class is made from `signature` (dspy's string form)
    with `instructions`, and `config` as keyword arguments. The parameters are
    `demos`, which every predictor of the module gets, or `state`, a program state as
    dspy saves it. `adapter` is chat, json, xml or None for dspy's own choice. `lm`
    holds settings of the model calls: temperature, max_tokens, ... `json_schema` and
    `native_tools` say what the model behind the handler can do.
    """

    module: str
    inputs: Mapping[str, object]
    signature: str | None = None
    instructions: str | None = None
    config: Mapping[str, object] = field(default_factory=dict[str, object])
    demos: Sequence[Mapping[str, object]] = ()
    # Any: dspy's saved state is JSON.
    state: Mapping[str, Any] | None = None
    adapter: str | None = None
    lm: Mapping[str, object] = field(default_factory=dict[str, object])
    json_schema: bool = True
    native_tools: bool = False

    def to_run(self, number: int) -> Run:
        """Give the message that asks for this call.

        Raises:
            UnsupportedValueError: a value that does not travel.
        """
        return Run(
            id=number,
            module=self.module,
            signature=self.signature,
            instructions=self.instructions,
            config=pack(dict(self.config), f"config of {self.module}"),
            inputs={
                name: pack(value, f"input {name!r} of {self.module}")
                for name, value in self.inputs.items()
            },
            demos=[
                {
                    name: pack(value, f"demos[{index}][{name!r}] of {self.module}")
                    for name, value in demo.items()
                }
                for index, demo in enumerate(self.demos)
            ],
            state=None
            if self.state is None
            else pack(dict(self.state), f"state of {self.module}"),
            adapter=self.adapter,
            lm=pack(dict(self.lm), f"lm settings of {self.module}"),
            json_schema=self.json_schema,
            native_tools=self.native_tools,
        )


@dataclass(frozen=True, slots=True)
class DspyResult:
    """What a hosted module gave: `outputs` by name, and the tokens it took.

    `usage` has the keys of a provider's `Usage.to_json()`, summed over `model_calls`.
    """

    outputs: dict[str, object]
    usage: dict[str, int]
    model_calls: int
