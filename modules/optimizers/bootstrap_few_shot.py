"""BootstrapFewShot: demos from a teacher's runs that pass the metric."""

import hashlib
import random
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias

import trio

from dspex.modules.call import TraceStep
from dspex.modules.module import Module
from dspex.modules.optimizers.attempt import (
    Attempt,
    Meter,
    budget_error_of,
    for_round,
    try_once,
)
from dspex.modules.optimizers.compiled import Compiled, DemoSource, M, Report
from dspex.modules.optimizers.errors import (
    BootstrapFailedError,
    CompileError,
    DatasetError,
)
from dspex.modules.optimizers.evaluate import DEFAULT_TIMEOUT, check_at_least
from dspex.modules.optimizers.example import AUGMENTED, Example
from dspex.modules.optimizers.journaled import EffectScopes, scope_of
from dspex.modules.optimizers.labeled_few_shot import with_labeled_demos
from dspex.modules.optimizers.metrics import Judge, Metric
from dspex.modules.optimizers.speculation import Speculation
from dspex.providers.lm import LM
from dspex.providers.messages import Usage
from dspex.runtime.log import get_logger

log = get_logger()

OnExample: TypeAlias = Callable[[int, bool], None]


class BootstrapFewShot:
    """Makes demos of what a teacher does right: `await optimizer.compile(program, ..)`.

    The teacher (the program itself unless another is given) runs on the training
    examples in order. What its predictors took and gave becomes their demos where the
    metric is true, or reaches `metric_threshold`; without a metric, always. It ends
    with `max_bootstrapped_demos` such examples; training examples that were not used
    so fill the demos up to `max_labeled_demos`. Each example is tried up to
    `max_rounds` times, from the second on at temperature 1.

    The demos are those that dspy 3.4 chooses, at any `concurrency`: up to that many
    examples run ahead, but results are taken in the order of the training set. No more
    than `max_extra` model calls (as many as `concurrency` unless given) are made that a
    sequential compile would not have made: an example that runs ahead waits before a
    call beyond them, which is not of its `timeout`. A call that a journal answers is
    none; of finished work nothing runs ahead. Where errors or a budget end it early, up
    to `max_bootstrapped_demos` examples more have run.

    The `max_errors`-th try that raises, or takes more than `timeout` seconds, ends it.
    A model's budget that is used up does so too, but without an error: the program has
    the demos that were found so far. `on_example` is told of each training example as
    it is taken: its index, and whether it becomes a demo.

    Raises:
        ConfigError: a setting is out of range.
    """

    def __init__(
        self,
        *,
        metric: Metric | None = None,
        metric_threshold: float | None = None,
        max_bootstrapped_demos: int = 4,
        max_labeled_demos: int = 16,
        max_rounds: int = 1,
        max_errors: int = 10,
        concurrency: int = 8,
        max_extra: int | None = None,
        timeout: float = DEFAULT_TIMEOUT,
        on_example: OnExample | None = None,
    ) -> None:
        check_at_least("max_bootstrapped_demos", max_bootstrapped_demos, 0)
        check_at_least("max_labeled_demos", max_labeled_demos, 0)
        check_at_least("max_rounds", max_rounds, 0)
        check_at_least("max_errors", max_errors, 0)
        check_at_least("concurrency", concurrency, 1)
        check_at_least("max_extra", max_extra or 0, 0)
        self.judge = None if metric is None else Judge(metric)
        self.metric_threshold = metric_threshold
        self.max_bootstrapped_demos = max_bootstrapped_demos
        self.max_labeled_demos = max_labeled_demos
        self.max_rounds = max_rounds
        self.max_errors = max(max_errors, 1)
        self.concurrency = concurrency
        self.max_extra = concurrency if max_extra is None else max_extra
        self.timeout = timeout
        self.on_example = on_example

    async def compile(
        self,
        student: M,
        trainset: Sequence[Example],
        *,
        teacher: Module | None = None,
        lm: LM | None = None,
        teacher_lm: LM | None = None,
        journal: EffectScopes | None = None,
    ) -> Compiled[M]:
        """Give a copy of the program with demos; the program itself stays as it is.

        A teacher that is not `compiled` gets labeled demos first, as in dspy. `lm` is
        the model of predictors that have none, `teacher_lm` the teacher's where that
        is another one. What a `journal` (see `open_work`) has of an earlier process is
        not asked again.

        Raises:
            DatasetError: the training set is empty, or an example does not say what
                its inputs are.
            CompileError: the student is compiled, or the teacher is another program.
            BootstrapFailedError: `max_errors` tries failed.
        """
        started = trio.current_time()
        if not trainset:
            raise DatasetError("training set", "has no example to bootstrap from")
        for example in trainset:
            example.inputs()
        if student.compiled:
            raise CompileError(
                type(self).__name__,
                "the student is compiled already: give the program it was made from",
            )
        prepared = self._prepare_teacher(student, teacher, trainset)
        bootstrap = _Bootstrap(self, prepared, trainset, teacher_lm or lm, journal)
        await bootstrap.run()
        program, sources = self._train(student, trainset, bootstrap)
        report = Report(
            type(self).__name__,
            demos=sources,
            bootstrapped=len(bootstrap.accepted),
            attempts=bootstrap.attempts,
            errors=bootstrap.errors,
            extra_examples=bootstrap.extra_examples,
            extra_calls=bootstrap.extra_calls,
            calls=bootstrap.calls,
            replayed=bootstrap.replayed,
            usage=bootstrap.usage,
            seconds=trio.current_time() - started,
            stopped=bootstrap.stopped,
        )
        log.info(
            "program_compiled",
            bootstrapped=report.bootstrapped,
            attempts=report.attempts,
            errors=report.errors,
        )
        return Compiled(program, report)

    def _prepare_teacher(
        self, student: Module, teacher: Module | None, trainset: Sequence[Example]
    ) -> Module:
        prepared = (student if teacher is None else teacher).copy()
        if self.max_labeled_demos and not prepared.compiled:
            prepared, _ = with_labeled_demos(
                prepared, trainset, k=self.max_labeled_demos
            )
        mine, theirs = student.named_predictors(), prepared.named_predictors()
        if [name for name, _ in mine] != [name for name, _ in theirs]:
            raise CompileError(
                type(self).__name__,
                f"the student has the predictors {_names(mine)}, and the teacher "
                f"{_names(theirs)}",
            )
        for (name, one), (_, other) in zip(mine, theirs, strict=True):
            if one.signature != other.signature:
                raise CompileError(
                    type(self).__name__,
                    f"the predictor {name} has the signature "
                    f"{one.signature.signature!r} in the student, and another "
                    f"({other.signature.signature!r}) or other instructions in the "
                    "teacher",
                )
        return prepared

    def _train(
        self, student: M, trainset: Sequence[Example], bootstrap: "_Bootstrap"
    ) -> tuple[M, dict[str, tuple[DemoSource, ...]]]:
        """Put the demos into a copy of the student, drawn as dspy draws them."""
        program = student.reset_copy()
        rest = [i for i in range(len(trainset)) if i not in bootstrap.accepted]
        random.Random(0).shuffle(rest)
        rng = random.Random(0)
        sources: dict[str, tuple[DemoSource, ...]] = {}
        for name, predictor in program.named_predictors():
            made = bootstrap.demos[name][: self.max_bootstrapped_demos]
            room = min(self.max_labeled_demos - len(made), len(rest))
            labeled = rng.sample(rest, max(0, room))
            predictor.demos = (
                *(demo for _, demo in made),
                *(trainset[index] for index in labeled),
            )
            sources[name] = (
                *(source for source, _ in made),
                *(DemoSource(index, bootstrapped=False) for index in labeled),
            )
        program.compiled = True
        return program, sources

    def is_success(self, attempt: Attempt) -> bool:
        """Whether the teacher did it right."""
        if attempt.error is not None:
            return False
        if attempt.score is None:
            return True
        # A threshold of 0 is none, as in dspy.
        if self.metric_threshold:
            return attempt.score.value >= self.metric_threshold
        return bool(attempt.score)


@dataclass(frozen=True, slots=True)
class _Tried:
    """The tries of one example, and the teacher of the last one."""

    attempts: tuple[Attempt, ...]
    teacher: Module
    is_success: bool


class _Bootstrap:
    """One teacher on one training set; its fields are what was taken so far."""

    def __init__(
        self,
        settings: BootstrapFewShot,
        teacher: Module,
        trainset: Sequence[Example],
        lm: LM | None,
        journal: EffectScopes | None,
    ) -> None:
        self._journal = journal
        self._settings = settings
        self._teacher = teacher
        self._trainset = trainset
        self._lm = lm
        self.demos: dict[str, list[tuple[DemoSource, Example]]] = {
            name: [] for name, _ in teacher.named_predictors()
        }
        self.accepted: set[int] = set()
        self.attempts = 0
        self.errors = 0
        self.extra_examples = 0
        self.extra_calls = 0
        self.calls = 0
        self.replayed = 0
        self.usage = Usage()
        self.stopped: str | None = None

    async def run(self) -> None:
        settings = self._settings
        if not settings.max_bootstrapped_demos or not settings.max_rounds:
            return
        is_finished = self._journal is not None and self._journal.is_finished
        ahead = Speculation(
            len(self._trainset),
            lambda index: self._try_example(index, partial(ahead.leave, index)),
            take=self._take,
            is_hit=lambda tried: tried.is_success,
            needed=settings.max_bootstrapped_demos,
            concurrency=settings.concurrency,
            # All that it will take is kept: running ahead would only ask for more.
            max_extra=0 if is_finished else settings.max_extra,
        )
        await ahead.run()
        self.extra_examples = ahead.started - ahead.taken
        self.extra_calls = ahead.extra_calls

    async def _try_example(
        self, index: int, leave: Callable[[], Awaitable[None]]
    ) -> _Tried:
        settings, example = self._settings, self._trainset[index]
        attempts: list[Attempt] = []
        teacher = self._teacher
        place = f"train[{index}]"
        failed = 0
        for number in range(settings.max_rounds):
            teacher = self._teacher.copy()
            for predictor in teacher.predictors:
                predictor.demos = tuple(d for d in predictor.demos if d != example)
            meter = Meter(scope_of(self._journal, f"{place}~{number}"), leave=leave)
            try:
                attempt = await try_once(
                    teacher,
                    example,
                    settings.judge,
                    lm=for_round(teacher, self._lm, number),
                    timeout=settings.timeout,
                    with_trace=True,
                    meter=meter,
                )
            finally:
                # Those of a try that is given up, too.
                self.calls += meter.calls
                self.replayed += meter.replayed
                self.usage += meter.usage
            attempts.append(attempt)
            if settings.is_success(attempt):
                return _Tried(tuple(attempts), teacher, is_success=True)
            failed += attempt.error is not None
            if self.errors + failed >= settings.max_errors or budget_error_of(
                attempt.error
            ):
                break
        return _Tried(tuple(attempts), teacher, is_success=False)

    def _take(self, index: int, tried: _Tried) -> bool:
        """Count the tries of the next example; whether to go on."""
        for attempt in tried.attempts:
            self.attempts += 1
            used_up = budget_error_of(attempt.error)
            if used_up is not None:
                self.stopped = str(used_up)
                return False
            if attempt.error is not None:
                self.errors += 1
                log.warning(
                    "bootstrap_try_failed", example=index, error=repr(attempt.error)
                )
                if self.errors >= self._settings.max_errors:
                    raise BootstrapFailedError(
                        self.errors, index, attempt.error
                    ) from attempt.error
        if tried.is_success:
            self.accepted.add(index)
            self._add_demos(index, tried)
        if self._settings.on_example is not None:
            self._settings.on_example(index, tried.is_success)
        return len(self.accepted) < self._settings.max_bootstrapped_demos

    def _add_demos(self, index: int, tried: _Tried) -> None:
        attempt = tried.attempts[-1]
        score = None if attempt.score is None else attempt.score.value
        names = {id(p): name for name, p in tried.teacher.named_predictors()}
        found: dict[str, list[Example]] = {}
        for step in attempt.trace:
            name = names.get(id(step.predictor))
            # A predictor that is none of the teacher's, or in a frozen part of it.
            if name is not None:
                found.setdefault(name, []).append(_demo(step))
        for name, demos in found.items():
            source = DemoSource(index, bootstrapped=True, score=score)
            self.demos[name].append((source, _choose(demos)))


def _demo(step: TraceStep) -> Example:
    values: dict[str, Any] = {**step.inputs, **step.prediction.outputs}  # Any: theirs
    return Example({AUGMENTED: True, **values})


def _choose(demos: Sequence[Example]) -> Example:
    """Choose one of a predictor's demos of one example: half the time the last.

    dspy seeds this by a hash of a pickle, which no other program can repeat; here it
    is a hash of the values.
    """
    if len(demos) == 1:
        return demos[0]
    text = repr([sorted(demo.items()) for demo in demos])
    rng = random.Random(hashlib.sha256(text.encode()).hexdigest())
    return rng.choice(demos[:-1]) if rng.random() < 0.5 else demos[-1]


def _names(named: Sequence[tuple[str, Module]]) -> str:
    return ", ".join(name for name, _ in named) or "none"
