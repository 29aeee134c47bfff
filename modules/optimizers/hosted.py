"""HostedOptimizer: dspy's own optimizers, by the interface of those that are here."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, TypeAlias

import trio

from dspex.modules.adapters.chat import ChatAdapter
from dspex.modules.adapters.choice import choose_adapter
from dspex.modules.adapters.json import JSONAdapter
from dspex.modules.adapters.xml import XMLAdapter
from dspex.modules.chain_of_thought import REASONING, ChainOfThought
from dspex.modules.hosted import call_of
from dspex.modules.module import Module
from dspex.modules.optimizers.attempt import Meter
from dspex.modules.optimizers.compiled import Compiled, DemoSource, M, Report
from dspex.modules.optimizers.dspy_metrics import dspy_metric
from dspex.modules.optimizers.errors import CompileError, DatasetError
from dspex.modules.optimizers.example import Example
from dspex.modules.optimizers.journaled import EffectScopes, scope_of
from dspex.modules.optimizers.program_module import HostedStep, ProgramModule
from dspex.modules.predict import Predict
from dspex.modules.signature import Signature
from dspex.providers.errors import BudgetExceededError
from dspex.providers.lm import LM
from dspex.providers.messages import Request, Response
from dspex.runtime import ActorRef
from dspex.runtime.bridge import (
    DspyCall,
    DspyPool,
    Optimization,
    OptimizedProgram,
)

_ADAPTERS: Final = {"chat": ChatAdapter, "json": JSONAdapter, "xml": XMLAdapter}

OnProgress: TypeAlias = Callable[[Mapping[str, Any]], None]  # Any: JSON


class HostedOptimizer:
    """Compiles with an optimizer of dspy: MIPROv2, GEPA, COPRO, BootstrapFewShot, ...

    It runs in a process of `pool`, on a Predict, a ChainOfThought or a program with one
    such step; its model calls are made here, on the `lm` of `compile`. `metric` is
    `exact_match:FIELD` (or another by field), or `package.module:function`, called
    there as dspy calls a metric. `settings` make the optimizer, `compile_settings` go
    to its `compile`. Instructions and demos come home: what is compiled runs without
    dspy. `on_progress` hears of its evaluations and log lines. Once it has a process it
    has `timeout` seconds, else the pool's `optimize_timeout` (four hours).

    A model's budget that is used up ends it without an error. dspy tells nothing of
    what it has found by then: the program is as it was.
    """

    def __init__(
        self,
        optimizer: str,
        *,
        metric: str,
        pool: ActorRef[DspyPool],
        settings: Mapping[str, object] | None = None,
        compile_settings: Mapping[str, object] | None = None,
        timeout: float | None = None,
        on_progress: OnProgress | None = None,
    ) -> None:
        self.name = optimizer.removeprefix("dspy.")
        self._metric = dspy_metric(metric) or metric
        self._pool = pool
        self._settings = dict(settings or {})
        self._compile_settings = dict(compile_settings or {})
        self._timeout = timeout
        self._on_progress = on_progress

    async def compile(
        self,
        student: M,
        trainset: Sequence[Example],
        *,
        lm: LM,
        valset: Sequence[Example] | None = None,
        journal: EffectScopes | None = None,
    ) -> Compiled[M]:
        """Give a copy of the program with what the optimizer found.

        What a `journal` (see `open_work`) has of an earlier process is not asked again,
        as far as the optimizer asks the same in the same order.

        Raises:
            DatasetError: there is no example, or one does not say what its inputs are.
            CompileError: the student is not one Predict or ChainOfThought.
            RunTimeoutError: it took too long; what it has found is lost.
            RemoteError: dspy raised it.
        """
        started = trio.current_time()
        if not trainset:
            raise DatasetError("training set", "has no example to compile with")
        meter = Meter(scope_of(journal, self.name))
        stopped: str | None = None
        scope = trio.CancelScope()

        async def complete(request: dict[str, Any]) -> dict[str, Any]:  # Any: JSON
            asked = Request.from_json(request)
            fingerprint = f"{lm.name} {asked.fingerprint()}"
            try:
                found: Response = await meter.perform(
                    fingerprint, lambda: lm.complete(asked)
                )
            except BudgetExceededError as error:
                nonlocal stopped
                stopped = str(error)
                scope.cancel()
                raise
            return found.to_json()

        async def watch(event: dict[str, Any]) -> None:  # Any: JSON
            await trio.lowlevel.checkpoint()
            if self._on_progress is not None:
                self._on_progress(event)

        optimization = Optimization(
            optimizer=self.name,
            program=self._program(student, lm),
            metric=self._metric,
            input_names=list(trainset[0].inputs()),
            trainset=[dict(example) for example in trainset],
            valset=None if valset is None else [dict(example) for example in valset],
            settings=self._settings,
            compile_settings=self._compile_settings,
            timeout=self._timeout,
        )
        done: OptimizedProgram | None = None
        with scope:
            # The pool bounds it, and the wait for a process is not the optimizer's.
            done = await self._pool.call(
                DspyPool.optimize, optimization, complete, watch, timeout=math.inf
            )
        program = student.reset_copy()
        if done is None or stopped is not None:
            program = student.copy()
        else:
            self._learn(program, done)
        program.compiled = True
        report = Report(
            self.name,
            demos={
                name: _sources(predictor.demos, trainset)
                for name, predictor in program.named_predictors()
            },
            calls=meter.calls,
            replayed=meter.replayed,
            usage=meter.usage,
            seconds=trio.current_time() - started,
            stopped=stopped,
        )
        return Compiled(program, report)

    def _learn(self, program: Module, done: OptimizedProgram) -> None:
        # One predictor here and one there; what each calls it is its own affair.
        ((_, predictor),) = program.named_predictors()
        if len(done.predictors) != 1:
            raise CompileError(
                self.name,
                f"the step of dspy has the predictors {', '.join(done.predictors)}: "
                "what one of them learned can be brought home",
            )
        (learned,) = done.predictors.values()
        predictor.demos = tuple(Example(demo) for demo in learned["demos"])
        instructions: str = learned["instructions"]
        predictor.signature = predictor.signature.with_instructions(instructions)

    def _program(self, student: Module, lm: LM) -> DspyCall:
        found = self._only_step(student)
        signature: Signature
        if isinstance(found, HostedStep):
            step = found.step.model_copy(update={"demos": ()})
            return call_of(step, {}, lm=lm)
        if isinstance(found, ChainOfThought):
            module, predictor = "dspy.ChainOfThought", found.predict
            signature = predictor.signature.delete(REASONING)
        elif isinstance(found, Predict):
            module, predictor = "dspy.Predict", found
            signature = predictor.signature
        else:
            raise CompileError(
                self.name,
                f"the student is a {type(found).__name__}: dspy can be given a "
                "Predict or a ChainOfThought",
            )
        # dspy asks in the form in which what it finds is used here.
        adapter = choose_adapter(predictor.adapter, lm.capabilities, signature)
        return DspyCall(
            module=module,
            inputs={},
            signature=signature.signature,
            instructions=signature.instructions,
            adapter=next(
                (n for n, kind in _ADAPTERS.items() if type(adapter) is kind), None
            ),
            lm=dict(predictor.settings),
            json_schema=lm.capabilities.json_schema,
            native_tools=lm.capabilities.tools,
        )

    def _only_step(self, student: Module) -> Module:
        """Give what dspy shall have of a program of steps: its only one."""
        if not isinstance(student, ProgramModule):
            return student
        if len(student.steps) != 1:
            raise CompileError(
                self.name,
                f"the program has {len(student.steps)} steps "
                f"({', '.join(student.steps)}): dspy can be given one; "
                "BootstrapFewShot and random search compile them all",
            )
        ((name, step),) = student.steps.items()
        for predictor in step.predictors:
            fields = predictor.signature
            if set(fields.input_fields) != set(student.input_names) or not (
                set(student.output_names) <= set(fields.output_fields)
            ):
                raise CompileError(
                    self.name,
                    f"the program's inputs and outputs are not called as those of its "
                    f"step {name!r}, which dspy is given",
                )
        return step


def _sources(
    demos: Sequence[Mapping[str, object]], trainset: Sequence[Example]
) -> tuple[DemoSource, ...]:
    """Find the training example of each demo; -1 where it is of none."""
    found: list[DemoSource] = []
    for demo in demos:
        indexes = (
            index
            for index, example in enumerate(trainset)
            if all(demo.get(name) == value for name, value in example.inputs().items())
        )
        index = next(indexes, -1)
        is_labeled = index >= 0 and dict(trainset[index]) == dict(demo)
        found.append(DemoSource(index, bootstrapped=not is_labeled))
    return tuple(found)
