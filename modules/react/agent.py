"""ReAct: thought, action, observation, until the model says it is done."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Literal, TypeAlias, TypeVar, cast

import trio

from dspex.modules.adapters.choice import choose_adapter
from dspex.modules.adapters.json import JSONAdapter
from dspex.modules.adapters.protocol import Adapter
from dspex.modules.adapters.values import to_plain
from dspex.modules.call import Call, begin_call, current_call, end_call
from dspex.modules.chain_of_thought import ChainOfThought
from dspex.modules.errors import AdapterParseError, ConfigError, LMNotConfiguredError
from dspex.modules.exchange import Exchange
from dspex.modules.fields import FieldType
from dspex.modules.module import Module
from dspex.modules.predict import Predict, request_settings
from dspex.modules.prediction import Outputs, Prediction
from dspex.modules.react.budget import SPENT, Budget
from dspex.modules.react.errors import AgentFailedError
from dspex.modules.react.fields import (
    TRAJECTORY,
    FieldsProtocol,
    answer_signature,
    step_signature,
)
from dspex.modules.react.native import NativeProtocol
from dspex.modules.react.text import TextProtocol
from dspex.modules.react.trajectory import Step, Trajectory
from dspex.modules.react.turns import (
    FINISH,
    AnyTool,
    CallTools,
    Finished,
    Turn,
    TurnTaker,
    Unreadable,
    Wanted,
    by_name,
)
from dspex.modules.signature import Inputs, Signature, SignatureLike, to_signature
from dspex.modules.tools.errors import (
    DuplicateToolError,
    ToolArgumentsError,
    ToolCallError,
)
from dspex.modules.tools.tool import Function, Tool
from dspex.providers.errors import ContextLengthError
from dspex.providers.lm import LM
from dspex.runtime.errors import DspexError
from dspex.runtime.log import get_logger

T = TypeVar("T")

log = get_logger()

Protocol: TypeAlias = Literal["auto", "native_tools", "text", "fields"]

COMPLETED: Final = "Completed."
_SAME_FAILURES: Final = 3


class ReAct(Module):
    """An agent: reasons, calls tools, looks at what they gave, and answers.

    The prediction has the signature's outputs, and besides them `success`, `reason`
    (why it ended: "finished", "max_iterations", "repeated_failure"...), `trajectory`
    (dspy's dict of what the model saw last), `steps` (all of them) and `dropped` (how
    many of them the model does not see any more). A stopped agent
    still answers from what it found, with `success` false; only when its
    tokens, seconds or cost are spent its outputs are None.

    `protocol` is how the model is asked: "native_tools" by the provider's tool calls,
    "fields" by a predictor (dspy's way), "text" by `Action[tool](...)`; "auto" takes
    native tools where the model has them, else fields. A tool that fails is an
    observation; with `fail_fast` it ends the run. The same failing call three times in
    a row ends it, too. `max_iterations` is 20, or what `budget` says. Observations are
    cut to `max_observation` characters in the prompt; when the model's context is full,
    the oldest steps are left out.

    Raises:
        SignatureError: the signature is none.
        DuplicateToolError: two tools have one name.
        ToolDefinitionError: a function cannot be a tool.
        ConfigError: an unknown setting, or a limit that is none.
    """

    def __init__(
        self,
        signature: SignatureLike,
        tools: Sequence[AnyTool | Function],
        *,
        lm: LM | None = None,
        adapter: Adapter | str | None = None,
        protocol: Protocol = "auto",
        max_iterations: int | None = None,
        budget: Budget | None = None,
        max_observation: int = 10_000,
        fail_fast: bool = False,
        repairs: int = 1,
        strict_inputs: bool = True,
        custom_types: Mapping[str, FieldType] | None = None,
        **settings: Any,  # Any: Predict checks them
    ) -> None:
        self.signature: Signature = to_signature(signature, custom_types=custom_types)
        self.tools: Mapping[str, AnyTool] = _by_name(tools)
        self.lm = lm
        self.protocol = protocol
        self.budget = budget or Budget()
        if max_iterations is not None:
            self.budget = replace(self.budget, iterations=max_iterations)
        self.max_observation = max_observation
        self.fail_fast = fail_fast
        self.react = Predict(
            step_signature(self.signature, self.tools),
            lm=lm,
            adapter=adapter,
            repairs=repairs,
            strict_inputs=strict_inputs,
            **settings,
        )
        self.extract = ChainOfThought(
            answer_signature(self.signature),
            lm=lm,
            adapter=adapter,
            repairs=repairs,
            strict_inputs=strict_inputs,
            **settings,
        )
        known = ("auto", "native_tools", "text", "fields")
        if protocol not in known:
            raise ConfigError("protocol", protocol, f"is none of {', '.join(known)}")

    def __repr__(self) -> str:
        return f"ReAct({self.signature!r}, tools={list(self.tools)})"

    async def forward(self, /, **inputs: Any) -> Prediction:  # Any: as declared
        """Work until the model is done or the budget is.

        `max_iterations` (or dspy's `max_iters`) may be given among the inputs.

        Raises:
            InputError: the inputs do not fit the signature.
            AgentFailedError: a model call failed; has the trajectory so far.
        """
        call = current_call()
        if call is not None:
            return await self._run(call, inputs)
        call, token = begin_call()
        try:
            return await self._run(call, inputs)
        finally:
            end_call(token)

    async def _run(
        self, call: Call, inputs: dict[str, Any]
    ) -> Prediction:  # Any: as declared
        budget = self._budget(inputs)
        if self.react.strict_inputs:
            inputs = self.signature.check_inputs(inputs)
        run = _Run(
            self, call, budget, inputs, Trajectory(max_observation=self.max_observation)
        )
        return await run.run()

    def _budget(self, inputs: dict[str, Any]) -> Budget:  # Any: as declared
        budget = self.budget
        for name in ("max_iterations", "max_iters"):
            if name in inputs and name not in self.signature.input_fields:
                budget = replace(budget, iterations=inputs.pop(name))
        return budget

    def turn_taker(self, call: Call) -> TurnTaker:
        """Give what asks the model, by the protocol that suits it.

        Raises:
            LMNotConfiguredError: there is no model.
        """
        lm = self.react.lm or call.lm
        if lm is None:
            raise LMNotConfiguredError(repr(self))
        protocol = self.protocol
        if protocol == "auto":
            protocol = "native_tools" if lm.capabilities.tools else "fields"
        if protocol == "fields":
            return FieldsProtocol(self.react)
        adapter = choose_adapter(self.react.adapter, lm.capabilities)
        exchange = Exchange(call, lm, adapter, self.signature)
        settings = request_settings(self.react.settings)
        build = NativeProtocol if protocol == "native_tools" else TextProtocol
        return build(self.signature, self.tools, exchange, settings)


@dataclass(slots=True)
class _Run:
    """One run of an agent: its trajectory so far, and why it ended."""

    agent: ReAct
    call: Call
    budget: Budget
    inputs: Inputs
    trajectory: Trajectory
    reason: str = "running"

    async def run(self) -> Prediction:
        started = trio.current_time()
        try:
            self.reason, outputs = await self._loop(started)
            if outputs is None:
                outputs = await self._extract()
        except DspexError as error:
            raise AgentFailedError(error, self.trajectory, self.reason) from error
        return Prediction.of(
            [outputs],
            facts={
                "success": self.reason == "finished",
                "reason": self.reason,
                "trajectory": self.trajectory.to_dict(),
                "steps": self.trajectory.steps,
                "dropped": self.trajectory.dropped,
            },
        )

    async def _loop(self, started: float) -> tuple[str, Outputs | None]:
        """Take turns; give why they ended, and the outputs if they are known."""
        taker = self.agent.turn_taker(self.call)
        model = cast(LM, self.agent.react.lm or self.call.lm).name
        for _ in range(self.budget.iterations):
            spent = self.budget.exceeded(self.call.usage, started, model=model)
            if spent is not None:
                return spent, None
            try:
                turn = await self._next_turn(taker)
            # As in dspy, a ValueError out of the model ends the loop, not the run.
            except (ContextLengthError, ValueError) as error:
                log.info("agent_stopped", reason=str(error))
                full = isinstance(error, ContextLengthError)
                return "context_full" if full else "model_failed", None
            if isinstance(turn, Finished):
                self._note_finish(turn)
                return "finished", turn.outputs
            failed = await self._take(turn)
            if failed and self.agent.fail_fast:
                return "tool_failed", None
            if self._fails_again():
                return "repeated_failure", None
        return "max_iterations", None

    async def _next_turn(self, taker: TurnTaker) -> Turn:
        return await self._shortening(
            lambda: taker.next_turn(self.inputs, self.trajectory)
        )

    async def _shortening(self, ask: Callable[[], Awaitable[T]]) -> T:
        """Ask the model; at each refusal of so much context, leave out more steps.

        Twice as many each time: a turn with parallel calls has many steps.

        Raises:
            ContextLengthError: one step is too much, too.
        """
        count = 1
        while True:
            try:
                return await ask()
            except ContextLengthError:
                shorter = self.trajectory.shortened(count)
                if shorter is None:
                    raise
            count *= 2
            log.info("trajectory_shortened", dropped=shorter.dropped)
            self.trajectory = shorter

    def _note_finish(self, turn: Finished) -> None:
        if turn.step is not None:
            step = turn.step
            self.trajectory = self.trajectory.with_steps(
                Step(
                    step.thought,
                    FINISH,
                    step.arguments,
                    COMPLETED,
                    call_id=step.call_id,
                )
            )

    async def _take(self, turn: CallTools | Unreadable) -> bool:
        """Do what the model wants; tell whether all of it failed."""
        if isinstance(turn, Unreadable):
            observation = f"Error: that was no step: {turn.problem}"
            step = Step(turn.text, "", {}, observation, failed=True)
            self.trajectory = self.trajectory.with_steps(step)
            return True
        steps: list[Step | None] = [None] * len(turn.calls)

        async def take(index: int) -> None:
            steps[index] = await self._call_tool(turn.calls[index])

        if len(steps) == 1:
            await take(0)
        else:
            async with trio.open_nursery() as nursery:
                for index in range(len(steps)):
                    nursery.start_soon(take, index)
        done = [step for step in steps if step is not None]
        self.trajectory = self.trajectory.with_steps(*done)
        return all(step.failed for step in done)

    async def _call_tool(self, wanted: Wanted) -> Step:
        started = trio.current_time()
        arguments = wanted.arguments

        async def work() -> tuple[bool, object]:
            try:
                return False, await tool.run(arguments)
            except ToolCallError as error:
                log.info("tool_failed", tool=wanted.tool, error=str(error))
                return True, error.observation

        try:
            tool = by_name(self.agent.tools, wanted.tool)
            arguments = _named(tool, wanted)
        except ToolCallError as error:
            failed, observation = True, cast(object, error.observation)
        else:
            fingerprint = f"tool {tool.name} {to_plain(dict(arguments))!r}"
            failed, observation = await self.call.perform(fingerprint, work)
        return Step(
            wanted.thought,
            wanted.tool,
            arguments,
            observation,
            failed,
            trio.current_time() - started,
            wanted.call_id,
        )

    def _fails_again(self) -> bool:
        """Whether the last steps are one call that failed the same way each time."""
        last = self.trajectory.steps[-_SAME_FAILURES:]
        return len(last) == _SAME_FAILURES and all(
            step.failed
            and (step.tool, step.arguments) == (last[0].tool, last[0].arguments)
            and step.observation == last[0].observation
            for step in last
        )

    async def _extract(self) -> Outputs:
        """Have the outputs read from the trajectory, where that may still cost."""
        names = self.agent.signature.output_fields
        if self.reason in SPENT:
            return dict.fromkeys(names)
        finish = self.trajectory.steps[-1] if self.reason == "finished" else None
        if finish is not None and finish.arguments:
            try:
                return (
                    JSONAdapter()
                    .read(self.agent.signature, dict(finish.arguments))
                    .outputs
                )
            except AdapterParseError:
                log.info("finish_unreadable", arguments=dict(finish.arguments))
        found = await self._shortening(
            lambda: self.agent.extract.run(
                {**self.inputs, TRAJECTORY: self.trajectory.as_text()}
            )
        )
        return found.outputs


def _named(tool: AnyTool, wanted: Wanted) -> Mapping[str, Any]:  # Any: JSON
    """Give all arguments by name; those by position in the schema's order.

    Raises:
        ToolArgumentsError: there are more than the tool takes, or one is given twice.
    """
    if not wanted.positional:
        return wanted.arguments
    names = list(tool.schema.get("properties", {}))
    if len(wanted.positional) > len(names):
        problem = f"it takes {len(names)} arguments, not {len(wanted.positional)}"
        raise ToolArgumentsError(tool.name, problem, tool.usage)
    given = dict(zip(names, wanted.positional, strict=False))
    twice = given.keys() & wanted.arguments.keys()
    if twice:
        problem = f"{', '.join(sorted(twice))} is given twice"
        raise ToolArgumentsError(tool.name, problem, tool.usage)
    return {**given, **wanted.arguments}


def _by_name(tools: Sequence[AnyTool | Function]) -> Mapping[str, AnyTool]:
    found: dict[str, AnyTool] = {}
    for given in tools:
        # Whatever has a `run` is a tool; anything else a function.
        is_tool = hasattr(given, "run")
        tool = cast(AnyTool, given) if is_tool else Tool(cast("Any", given))
        if tool.name in found or tool.name == FINISH:
            raise DuplicateToolError(tool.name)
        found[tool.name] = tool
    return found
