"""What one asks of a bridge and what comes back, as data."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, Self, TypeAlias, runtime_checkable

from dspex.runtime.bridge.protocol import Optimize, Run, ToolInfo
from dspex.runtime.bridge.values import HostedTool, Packed, pack, tool_fields

JSONObject: TypeAlias = dict[str, Any]  # Any: plain JSON

ModelHandler: TypeAlias = Callable[[JSONObject], Awaitable[JSONObject]]
"""Answers the model calls of one run: `Request.to_json()` in, `Response.to_json()`
out. Its exceptions reach the hosted dspy as dspy's own errors."""

ToolHandler: TypeAlias = Callable[[str, dict[str, Any]], Awaitable[object]]
"""Answers the tool calls of one run: the tool's name and arguments in, a value that
travels out. Its exceptions are raised in the hosted dspy."""

ProgressHandler: TypeAlias = Callable[[dict[str, Any]], Awaitable[None]]
"""Hears of what happens during an optimization, and the streamed fields of a run."""


@runtime_checkable
class StreamingModelHandler(Protocol):
    """A model handler that can also give its text in pieces."""

    async def __call__(self, request: JSONObject) -> JSONObject:
        """Answer as a `ModelHandler`."""
        ...

    async def stream(
        self, request: JSONObject, tell: Callable[[str], None]
    ) -> JSONObject:
        """Answer the same, and tell each piece of the text as it comes."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class DspyCall:
    """One run of a hosted module or function.

    `module` is `dspy.Predict`, `dspy.ChainOfThought`, any other name in dspy, or
    `package.module:attribute` on the child's search path: a dspy module, a class of
    one, or a plain function. A class is made from `signature` (dspy's string form)
    with `instructions`, and `config` as keyword arguments; `types` holds the JSON
    schemas of the types that the signature names. The parameters are `demos`, which
    every predictor of the module gets, or `state`, a program state as dspy saves it.

    `adapter` is chat, json, xml or None for dspy's own choice. `lm` holds settings of
    the model calls: temperature, max_tokens, ... `json_schema` and `native_tools` say
    what the model behind the handler can do. With `own_model` the child calls that
    model itself, with `lm` as the arguments of `dspy.LM`, and the handler is not used.

    `tools` are handed to the module as its `tools`; calls of them, and of a
    `HostedTool` among the inputs, come to the tool handler. `trace` asks for the
    predictors' inputs and outputs in the result.
    `stream` names output fields whose text is told to the progress handler as it
    comes, as `{"event": "delta", "predictor", "field", "text", "is_last"}`; those that
    no predictor of the module has are passed by.
    `timeout` and `session` are for a pool: seconds the run may take before its process
    is killed, and the name of a session, whose calls all go to the same process.
    With `is_brief` it goes first there and is not counted among the runs of `max_size`:
    when all are busy it has a process beside them.
    """

    module: str
    inputs: Mapping[str, object]
    signature: str | None = None
    instructions: str | None = None
    config: Mapping[str, object] = field(default_factory=dict[str, object])
    types: Mapping[str, JSONObject] = field(default_factory=dict[str, JSONObject])
    demos: Sequence[Mapping[str, object]] = ()
    state: JSONObject | None = None
    adapter: str | None = None
    lm: Mapping[str, object] = field(default_factory=dict[str, object])
    json_schema: bool = True
    native_tools: bool = False
    own_model: str | None = None
    tools: Sequence[HostedTool] = ()
    trace: bool = False
    stream: Sequence[str] = ()
    timeout: float | None = None
    session: str | None = None
    is_brief: bool = False

    def __post_init__(self) -> None:
        """Check that each tool has a name of its own.

        Raises:
            ValueError: two have the same.
        """
        names = [tool.name for tool in self.tools]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"tools of {self.module}: two are called {twice[0]!r}")

    def to_run(self, number: int) -> Run:
        """Give the message that asks for this call.

        Raises:
            UnsupportedValueError: a value that does not travel.
        """
        name = self.module
        return Run(
            id=number,
            module=name,
            signature=self.signature,
            instructions=self.instructions,
            config=pack(dict(self.config), f"config of {name}"),
            types={key: dict(schema) for key, schema in self.types.items()},
            inputs=_pack_fields(self.inputs, "input", name),
            demos=[
                _pack_fields(demo, f"demos[{index}]", name)
                for index, demo in enumerate(self.demos)
            ],
            state=None if self.state is None else pack(self.state, f"state of {name}"),
            adapter=self.adapter,
            lm=pack(dict(self.lm), f"lm settings of {name}"),
            json_schema=self.json_schema,
            native_tools=self.native_tools,
            own_model=self.own_model,
            tools=[ToolInfo(**tool_fields(tool)) for tool in self.tools],
            trace=self.trace,
            stream=list(self.stream),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Optimization:
    """One run of a dspy optimizer over `program`, whose inputs are not used.

    `optimizer` is its name in dspy (MIPROv2, GEPA, COPRO, BootstrapFewShot, ...), made
    with `settings`; `compile_settings` go to its `compile`. `metric` is
    `package.module:attribute`, called as dspy calls a metric. `trainset` and `valset`
    are examples; `input_names` tell which of their fields are inputs. `timeout` is in
    seconds.
    """

    optimizer: str
    program: DspyCall
    metric: str
    input_names: Sequence[str]
    trainset: Sequence[Mapping[str, object]]
    valset: Sequence[Mapping[str, object]] | None = None
    settings: Mapping[str, object] = field(default_factory=dict[str, object])
    compile_settings: Mapping[str, object] = field(default_factory=dict[str, object])
    timeout: float | None = None

    def to_optimize(self, number: int) -> Optimize:
        """Give the message that asks for it.

        Raises:
            UnsupportedValueError: a value that does not travel.
        """
        name = self.optimizer
        return Optimize(
            id=number,
            optimizer=name,
            program=self.program.to_run(number),
            metric=self.metric,
            input_names=list(self.input_names),
            trainset=_pack_examples(self.trainset, "trainset", name),
            valset=None
            if self.valset is None
            else _pack_examples(self.valset, "valset", name),
            settings=pack(dict(self.settings), f"settings of {name}"),
            compile_settings=pack(
                dict(self.compile_settings), f"compile settings of {name}"
            ),
        )


@dataclass(frozen=True, slots=True)
class DspyResult:
    """What a hosted module gave: `outputs` by name, and the tokens it took.

    `usage` has the keys of a provider's `Usage.to_json()`, summed over `model_calls`.
    `trace` has an entry for each prediction on the way: predictor, inputs, outputs.
    """

    outputs: dict[str, Any]  # Any: whatever the module gives
    usage: dict[str, int]
    model_calls: int
    trace: tuple[dict[str, Any], ...] = ()  # Any: as above


def as_it_is(result: DspyResult) -> DspyResult:
    """Give the result: the shape of a run's, where an optimizer has another."""
    return result


@dataclass(frozen=True, slots=True)
class OptimizedProgram:
    """What an optimizer made of a program.

    `predictors` has instructions and demos by the predictor's name; `state` is the
    same as dspy saves it, to be given to a `DspyCall`. The scores are the metric's
    mean over the validation set (the training set if there is none), in percent.
    """

    state: dict[str, Any]  # Any: dspy's saved state is JSON
    predictors: dict[str, dict[str, Any]]  # Any: demos hold whatever the fields hold
    score_before: float
    score_after: float
    usage: dict[str, int]
    model_calls: int

    @classmethod
    def of(cls, result: DspyResult) -> Self:
        """Give what a process that has run an optimizer says."""
        return cls(**result.outputs, usage=result.usage, model_calls=result.model_calls)


def _pack_fields(fields: Mapping[str, object], what: str, name: str) -> JSONObject:
    return {
        key: pack(value, f"{what} {key!r} of {name}") for key, value in fields.items()
    }


def _pack_examples(
    examples: Sequence[Mapping[str, object]], what: str, name: str
) -> list[Packed]:
    return [
        _pack_fields(example, f"{what}[{index}]", name)
        for index, example in enumerate(examples)
    ]
