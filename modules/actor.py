"""A module as an actor: supervised, named, and no bottleneck.

The actor holds the module and what became of its calls. Each forward runs as its own
task on the module as it was when it came, so a slow or failing one holds nobody up: a
bad input fails its caller, not its neighbours. A changed parameter makes a changed copy
of the module, for the forwards that come after.
"""

from collections import deque
from collections.abc import Callable, Mapping
from contextvars import Context, copy_context
from typing import Any, Final, cast

import trio

from dspex.modules.call import Effects
from dspex.modules.errors import (
    ForwardQueueFullError,
    ForwardTimeoutError,
    ParameterError,
    StateError,
    UnknownParameterError,
)
from dspex.modules.module import Module
from dspex.modules.module_state import Execution, ModuleMetrics, ModuleState
from dspex.modules.parameter import (
    Parameter,
    Snapshot,
    Snapshots,
    Subscriber,
    percentile,
    read_parameters,
    with_parameter,
)
from dspex.modules.prediction import NO_USAGE, Prediction, add_usage
from dspex.modules.queued_call import Patience, take_call
from dspex.modules.saved_state import dump_dspy_state, load_dspy_state
from dspex.providers.lm import LM
from dspex.providers.messages import Usage
from dspex.runtime import Actor, Deferred, Refuse
from dspex.runtime.log import get_logger
from dspex.runtime.recent import Recent, memory_bytes
from dspex.runtime.tracebacks import RecentTracebacks

log = get_logger()

HISTORY: Final = 1_000
HISTORY_BYTES: Final = 4 * 1024 * 1024
# Of an execution, without what it was asked and has answered.
_EXECUTION_BYTES: Final = 1_000


class ModuleActor(Actor):
    """Runs the forwards of one module, at most `max_concurrency` at a time.

    Up to `max_waiting` more wait their turn, in order; a further one is refused with
    ForwardQueueFullError. A forward that takes longer than `timeout` seconds, without
    its wait, fails with ForwardTimeoutError. One whose caller has gone before its turn
    is not run.

    With `snapshots` the parameters survive a crash: what was set last is set again when
    the actor is restarted under its name. Without, a restart begins with the module as
    it was given. `price` gives the cost of a usage. The last `history` executions are
    kept, fewer where these take more than 4 MiB.
    """

    def __init__(
        self,
        module: Module,
        lm: LM | None = None,
        *,
        max_concurrency: int = 50,
        max_waiting: int = 10_000,
        timeout: float = 300.0,
        snapshots: Snapshots | None = None,
        price: Callable[[Usage], float] | None = None,
        history: int = HISTORY,
    ) -> None:
        # The module may belong to somebody who goes on changing it.
        self._module = module.copy()
        self._lm = lm
        self._parameters = read_parameters(self._module)
        self._subscribers: list[Subscriber] = []
        self._version = 1
        self._max_concurrency = max_concurrency
        self._max_waiting = max_waiting
        self._timeout = timeout
        self._snapshots = snapshots
        self._price = price
        self._starts = 1
        self._running = 0
        # All that have not ended, and those of them that wait for their turn.
        self._pending: dict[_Forward, None] = {}
        self._waiting: deque[tuple[_Forward, Context]] = deque()
        self._succeeded = 0
        self._failed = 0
        self._usage = NO_USAGE
        self._history = Recent[Execution](most=history, max_bytes=HISTORY_BYTES)
        self._seconds: deque[float] = deque(maxlen=HISTORY)
        self._tracebacks = RecentTracebacks()
        self._drains: list[_Drain] = []

    async def init(self) -> None:
        """Set the parameters again that the last incarnation had."""
        if self._snapshots is None:
            return
        found = self._snapshots.saved.get(self.name)
        if found is not None:
            self._starts = found.starts + 1
            for name, parameter in found.parameters.items():
                if name in self._parameters:
                    self._parameters[name] = parameter
                    self._module = with_parameter(self._module, parameter)
        self._save_snapshot()

    # --- forwards

    async def forward(
        self,
        inputs: Mapping[str, Any],  # Any: as the module declares them
        lm: LM | None = None,
        effects: Effects | None = None,
        patience: Patience | None = None,
    ) -> Deferred[Prediction]:
        """Run the module's forward on `inputs`, with `lm` in place of the actor's.

        Model and tool calls go through `effects`, for a journal that makes each once.

        Raises:
            ForwardQueueFullError: too many wait already.
            ForwardTimeoutError: it took too long.
            DspexError: whatever the forward raises.
        """
        if len(self._pending) >= self._max_concurrency + self._max_waiting:
            raise Refuse(
                ForwardQueueFullError(
                    self.name,
                    running=self._max_concurrency,
                    waiting=self._max_waiting,
                )
            )
        take_call(patience)
        answer: Deferred[Prediction] = self.deferred()
        run = _Forward(answer, self._module, dict(inputs), lm or self._lm, effects)
        self._pending[run] = None
        if self._running < self._max_concurrency:
            self._running += 1
            self._start(run)
        else:
            self._waiting.append((run, copy_context()))
        return answer

    def _start(self, run: "_Forward") -> None:
        run.started = trio.current_time()
        # The task's own scope: a second one would cost as much as the task.
        self.spawn(self._work, run, deadline=run.started + self._timeout)

    async def _work(self, run: "_Forward") -> None:
        try:
            if run.answer.is_wanted:
                await self._run(run)
        finally:
            del self._pending[run]
            if self._drains:
                self._drains = [drain for drain in self._drains if drain.goes_on(run)]
            if self._waiting:
                following, context = self._waiting.popleft()
                # In the context of its own caller, not in this one's.
                context.run(self._start, following)
            else:
                self._running -= 1

    async def _run(self, run: "_Forward") -> None:
        try:
            found = await run.module.run(run.inputs, lm=run.lm, effects=run.effects)
        # The edge between a module and its callers: whatever a forward raises
        # is its caller's, and no reason for the other forwards to die.
        except Exception as error:  # noqa: BLE001
            self._note_failed(run, error)
        except BaseException as error:
            if run.seconds < self._timeout:
                raise
            self._note_failed(run, ForwardTimeoutError(self.name, self._timeout))
            if isinstance(error, BaseExceptionGroup):
                # What failed beside the cancellation failed too late to matter.
                group = cast("BaseExceptionGroup[BaseException]", error)
                rest = group.split(Exception)[1]
                if rest is not None:
                    raise rest from None
            raise
        else:
            self._succeeded += 1
            self._usage = add_usage(self._usage, found.usage)
            self._keep(
                Execution(run.inputs, found, None, found.seconds),
                (run.inputs, found.completions, found.facts, found.attempts),
            )
            run.answer.reply(found)

    def _note_failed(self, run: "_Forward", error: Exception) -> None:
        self._failed += 1
        execution = Execution(run.inputs, None, error, run.seconds)
        self._keep(execution, (run.inputs, error))
        self._tracebacks.keep(error)
        log.info("forward_failed", actor=self.name, error=repr(error))
        run.answer.fail(error)

    def _keep(self, execution: Execution, parts: object) -> None:
        self._history.add(execution, _EXECUTION_BYTES + memory_bytes(parts))
        self._seconds.append(execution.seconds)

    # --- state

    async def get_state(self) -> ModuleState:
        """Give the parameters, the last executions and the metrics."""
        return ModuleState(
            self.name,
            type(self._module).__name__,
            self._version,
            dict(self._parameters),
            tuple(self._history),
            self._metrics(),
        )

    async def get_parameter(self, name: str) -> object:
        """Give the value of a parameter.

        Raises:
            UnknownParameterError: there is none of that name.
        """
        return self._find(name).value

    async def set_parameter(self, name: str, value: object) -> Parameter:
        """Set a parameter for the forwards that come after; give it with its history.

        Raises:
            UnknownParameterError: there is none of that name.
            ParameterError: the value does not fit; nothing was changed.
        """
        try:
            changed = self._find(name).with_value(value)
        except ParameterError as error:
            raise Refuse(error) from error
        self._module = with_parameter(self._module, changed)
        self._parameters[name] = changed
        self._version += 1
        self._save_snapshot()
        for subscriber in self._subscribers:
            subscriber(changed)
        return changed

    async def subscribe(self, subscriber: Subscriber) -> None:
        """Have a function called with each parameter that is set; it must not wait."""
        self._subscribers.append(subscriber)

    async def unsubscribe(self, subscriber: Subscriber) -> None:
        """Take a subscription back; one that is not there is none."""
        if subscriber in self._subscribers:
            self._subscribers.remove(subscriber)

    async def checkpoint(self) -> dict[str, Any]:  # Any: JSON
        """Give the learned state as plain JSON, in dspy's form, with the settings."""
        settings = {
            name: parameter.value
            for name, parameter in self._parameters.items()
            if parameter.kind == "setting" and parameter.value is not None
        }
        return {"program": dump_dspy_state(self._module), "settings": settings}

    async def restore(self, checkpoint: Mapping[str, Any]) -> None:  # Any: JSON
        """Go back to what `checkpoint` gave, for the forwards that come after.

        Raises:
            StateError: it is of another program; nothing was changed.
            ParameterError: a setting does not fit; nothing was changed.
        """
        module = self._module.copy()
        parameters = read_parameters(module)
        try:
            load_dspy_state(module, checkpoint["program"])
            for name, parameter in parameters.items():
                if parameter.kind == "setting":
                    value: object = checkpoint["settings"].get(name)
                    module = with_parameter(module, parameter.with_value(value))
        except KeyError as error:
            problem = f"has no {error.args[0]} in the checkpoint"
            raise Refuse(StateError(self.name, problem)) from error
        except (StateError, ParameterError) as error:
            raise Refuse(error) from error
        self._take(module)

    async def swap(
        self, module: Module, patience: Patience | None = None
    ) -> Deferred[int]:
        """Put another module in this one's place; give how many forwards were drained.

        Forwards that come after run on the new one; those under way end on the old, and
        the answer comes when they have. Parameters that both have keep their values;
        no call is lost, and the name stays.
        """
        self._take(module.copy(), keep=self._parameters)
        take_call(patience)
        answer: Deferred[int] = self.deferred()
        drain = _Drain(answer, set(self._pending))
        if drain.goes_on():
            self._drains.append(drain)
        return answer

    def _take(
        self, module: Module, *, keep: Mapping[str, Parameter] | None = None
    ) -> None:
        parameters = read_parameters(module)
        for name, old in (keep or {}).items():
            if name in parameters and parameters[name].type == old.type:
                parameters[name] = old
                module = with_parameter(module, old)
        for name, parameter in self._parameters.items():
            if keep is None and name in parameters:
                changed = parameters[name].value != parameter.value
                history = (*parameter.history, parameter.value) if changed else ()
                parameters[name] = Parameter(
                    name,
                    parameter.kind,
                    parameters[name].value,
                    parameter.type,
                    (history or parameter.history)[-100:],
                )
        self._module, self._parameters = module, parameters
        self._version += 1
        self._save_snapshot()

    def _find(self, name: str) -> Parameter:
        if name not in self._parameters:
            raise Refuse(UnknownParameterError(name, tuple(self._parameters)))
        return self._parameters[name]

    def _save_snapshot(self) -> None:
        if self._snapshots is not None:
            snapshot = Snapshot(dict(self._parameters), self._starts)
            self._snapshots.saved[self.name] = snapshot

    def _metrics(self) -> ModuleMetrics:
        durations = list(self._seconds)
        return ModuleMetrics(
            self._succeeded,
            self._failed,
            self._running,
            len(self._waiting),
            sum(durations) / len(durations) if durations else 0.0,
            percentile(durations, 0.5),
            percentile(durations, 0.95),
            self._usage,
            0.0 if self._price is None else self._price(self._usage),
            self._starts - 1,
        )


class _Forward:
    """One forward as it came: what it runs on does not change any more."""

    __slots__ = ("answer", "effects", "inputs", "lm", "module", "started")

    def __init__(
        self,
        answer: Deferred[Prediction],
        module: Module,
        inputs: Mapping[str, Any],  # Any: as the module declares them
        lm: LM | None,
        effects: Effects | None,
    ) -> None:
        self.answer = answer
        self.started = 0.0
        self.module = module
        self.inputs = inputs
        self.lm = lm
        self.effects = effects

    @property
    def seconds(self) -> float:
        """How long it has run."""
        return trio.current_time() - self.started


class _Drain:
    """Forwards of a module that was swapped, and who waits for them to end."""

    def __init__(self, answer: Deferred[int], left: set[_Forward]) -> None:
        self._answer = answer
        self._count = len(left)
        self._left = left

    def goes_on(self, ended: _Forward | None = None) -> bool:
        """Take note of an end; False, and the answer is given, after the last."""
        if ended is not None:
            self._left.discard(ended)
        if not self._left:
            self._answer.reply(self._count)
        return bool(self._left)
