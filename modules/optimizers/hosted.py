"""HostedOptimizer: dspy's own optimizers, by the interface of those that are here."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import trio

from dspex.modules.chain_of_thought import REASONING, ChainOfThought
from dspex.modules.module import Module
from dspex.modules.optimizers.attempt import Meter
from dspex.modules.optimizers.compiled import Compiled, DemoSource, M, Report
from dspex.modules.optimizers.errors import CompileError, DatasetError
from dspex.modules.optimizers.example import Example
from dspex.modules.optimizers.journaled import EffectScopes, scope_of
from dspex.modules.predict import Predict
from dspex.modules.signature import Signature
from dspex.providers.lm import LM
from dspex.providers.messages import Request, Response
from dspex.runtime import ActorRef
from dspex.runtime.bridge import DspyCall, DspyPool, Optimization

OnProgress: TypeAlias = Callable[[Mapping[str, Any]], None]  # Any: JSON


class HostedOptimizer:
    """Compiles with an optimizer of dspy: MIPROv2, GEPA, COPRO, BootstrapFewShot, ...

    It runs in a process of `pool`, on a Predict or a ChainOfThought; its model calls
    are made here, on the `lm` of `compile`. `metric` is `package.module:function`,
    called there as dspy calls a metric. `settings` make the optimizer,
    `compile_settings` go to its `compile`. Instructions and demos come home: what is
    compiled runs without dspy. `on_progress` hears of its evaluations and log lines.
    """

    def __init__(
        self,
        optimizer: str,
        *,
        metric: str,
        pool: ActorRef[DspyPool],
        settings: Mapping[str, object] | None = None,
        compile_settings: Mapping[str, object] | None = None,
        timeout: float = 3_600.0,
        on_progress: OnProgress | None = None,
    ) -> None:
        self.name = optimizer.removeprefix("dspy.")
        self._metric = metric
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
            CompileError: the student is neither a Predict nor a ChainOfThought.
            RemoteError: dspy raised it.
        """
        started = trio.current_time()
        if not trainset:
            raise DatasetError("training set", "has no example to compile with")
        meter = Meter(scope_of(journal, self.name))

        async def complete(request: dict[str, Any]) -> dict[str, Any]:  # Any: JSON
            asked = Request.from_json(request)
            fingerprint = f"{lm.name} {asked.fingerprint()}"
            found: Response = await meter.perform(
                fingerprint, lambda: lm.complete(asked)
            )
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
        done = await self._pool.call(
            DspyPool.optimize, optimization, complete, watch, timeout=self._timeout
        )
        program = student.reset_copy()
        for name, predictor in program.named_predictors():
            learned = done.predictors[name]
            predictor.demos = tuple(Example(demo) for demo in learned["demos"])
            instructions: str = learned["instructions"]
            predictor.signature = predictor.signature.with_instructions(instructions)
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
        )
        return Compiled(program, report)

    def _program(self, student: Module, lm: LM) -> DspyCall:
        signature: Signature
        if isinstance(student, ChainOfThought):
            module, predictor = "dspy.ChainOfThought", student.predict
            signature = predictor.signature.delete(REASONING)
        elif isinstance(student, Predict):
            module, predictor = "dspy.Predict", student
            signature = predictor.signature
        else:
            raise CompileError(
                self.name,
                f"the student is a {type(student).__name__}: dspy can be given a "
                "Predict or a ChainOfThought",
            )
        adapter = predictor.adapter
        return DspyCall(
            module=module,
            inputs={},
            signature=signature.signature,
            instructions=signature.instructions,
            adapter=adapter if isinstance(adapter, str) else None,
            lm=dict(predictor.settings),
            json_schema=lm.capabilities.json_schema,
            native_tools=lm.capabilities.tools,
        )


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
