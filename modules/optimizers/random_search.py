"""BootstrapFewShotWithRandomSearch: many sets of demos, the best on unseen examples."""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Generic, TypeAlias

import trio

from dspex.modules.module import Module
from dspex.modules.optimizers.bootstrap_few_shot import BootstrapFewShot
from dspex.modules.optimizers.compiled import Compiled, M, Report
from dspex.modules.optimizers.dataset import Dataset, refuse_leakage
from dspex.modules.optimizers.errors import BootstrapFailedError, DatasetError
from dspex.modules.optimizers.evaluate import (
    DEFAULT_TIMEOUT,
    Evaluate,
    check_at_least,
)
from dspex.modules.optimizers.evaluation import Evaluation
from dspex.modules.optimizers.example import Example
from dspex.modules.optimizers.journaled import EffectScopes, below
from dspex.modules.optimizers.labeled_few_shot import with_labeled_demos
from dspex.modules.optimizers.metrics import Metric
from dspex.providers.lm import LM
from dspex.providers.messages import Usage
from dspex.runtime.log import get_logger

log = get_logger()

ZERO_SHOT: Final = -3
LABELED: Final = -2
IN_ORDER: Final = -1


@dataclass(frozen=True, slots=True)
class Candidate(Generic[M]):
    """One of the programs that were tried, and its score on the validation set.

    `seed` is dspy's: -3 has no demos, -2 labeled ones, -1 is bootstrapped from the
    training set in its order, the others from shuffled ones. One that could not be
    bootstrapped has an `error` instead.
    """

    seed: int
    compiled: Compiled[M] | None
    evaluation: Evaluation | None
    error: BootstrapFailedError | None = None

    @property
    def score(self) -> float | None:
        """From 0 to 100; None without a score on the whole validation set."""
        if self.evaluation is None or self.evaluation.stopped is not None:
            return None
        return self.evaluation.score


OnCandidate: TypeAlias = Callable[[Candidate[Any]], None]  # Any: M


@dataclass(frozen=True, slots=True)
class Searched(Compiled[M]):
    """The best candidate, and all of them in the order in which they were tried."""

    candidates: tuple[Candidate[M], ...]


class BootstrapFewShotWithRandomSearch:
    """Tries several sets of demos and keeps the one that is best on a validation set.

    The candidates are dspy's: no demos, labeled ones only, those of BootstrapFewShot,
    and `num_candidates` more, each with 1 to `max_bootstrapped_demos` bootstrapped ones
    from the training set in another order. Of equally good ones the first is kept; the
    search ends early at one that reaches `stop_at_score` (0 to 100).

    The other settings are those of BootstrapFewShot. In the validation an example that
    fails counts 0.

    Raises:
        ConfigError: a setting is out of range.
    """

    def __init__(
        self,
        *,
        metric: Metric,
        metric_threshold: float | None = None,
        max_bootstrapped_demos: int = 4,
        max_labeled_demos: int = 16,
        max_rounds: int = 1,
        num_candidates: int = 16,
        stop_at_score: float | None = None,
        max_errors: int = 10,
        concurrency: int = 8,
        timeout: float = DEFAULT_TIMEOUT,
        on_candidate: OnCandidate | None = None,
    ) -> None:
        check_at_least("num_candidates", num_candidates, 0)
        check_at_least("max_bootstrapped_demos", max_bootstrapped_demos, 1)
        self._metric = metric
        self._max_bootstrapped_demos = max_bootstrapped_demos
        self._max_labeled_demos = max_labeled_demos
        self._num_candidates = num_candidates
        self._stop_at_score = stop_at_score
        self._concurrency = concurrency
        self._timeout = timeout
        self._on_candidate = on_candidate

        def bootstrap(size: int) -> BootstrapFewShot:
            return BootstrapFewShot(
                metric=metric,
                metric_threshold=metric_threshold,
                max_bootstrapped_demos=size,
                max_labeled_demos=max_labeled_demos,
                max_rounds=max_rounds,
                max_errors=max_errors,
                concurrency=concurrency,
                timeout=timeout,
            )

        self._bootstrap = bootstrap
        bootstrap(max_bootstrapped_demos)  # checks the settings

    async def compile(
        self,
        student: M,
        trainset: Sequence[Example],
        *,
        valset: Sequence[Example] | None = None,
        seed: int = 0,
        teacher: Module | None = None,
        lm: LM | None = None,
        teacher_lm: LM | None = None,
        journal: EffectScopes | None = None,
    ) -> Searched[M]:
        """Give the best candidate; the program itself stays as it is.

        Without a `valset` half of the training set, drawn by `seed`, becomes one and is
        not trained on. A budget that is used up ends the search with the best so far.
        What a `journal` (see `open_work`) has of an earlier process is not asked again.

        Raises:
            DatasetError: a set is empty, or they have an example in common.
            CompileError: the student is compiled, or the teacher is another program.
            BootstrapFailedError: no candidate could be made and scored.
        """
        started = trio.current_time()
        if valset is None:
            trainset, valset = Dataset(trainset, name="training set").split(
                0.5, 0.5, seed=seed
            )
        for name, examples in (("training", trainset), ("validation", valset)):
            if not examples:
                raise DatasetError(f"{name} set", "has no example")
        refuse_leakage("validation set", trainset, valset)
        evaluate = Evaluate(
            valset,
            metric=self._metric,
            concurrency=self._concurrency,
            timeout=self._timeout,
            max_errors=None,
        )
        tried: list[Candidate[M]] = []
        best: Candidate[M] | None = None
        for number in range(ZERO_SHOT, self._num_candidates):
            candidate = await self._try(
                number,
                student,
                trainset,
                evaluate,
                teacher,
                lm,
                teacher_lm or lm,
                below(journal, f"candidate {number}"),
            )
            tried.append(candidate)
            log.info("candidate_scored", seed=number, score=candidate.score)
            if self._on_candidate is not None:
                self._on_candidate(candidate)
            if candidate.score is not None and (
                best is None or candidate.score > (best.score or 0.0)
            ):
                best = candidate
            if _why_stopped(candidate) or self._is_enough(candidate):
                break
        return _searched(tried, best or tried[0], trio.current_time() - started)

    def _is_enough(self, candidate: Candidate[M]) -> bool:
        if self._stop_at_score is None or candidate.score is None:
            return False
        return candidate.score >= self._stop_at_score

    async def _try(
        self,
        seed: int,
        student: M,
        trainset: Sequence[Example],
        evaluate: Evaluate,
        teacher: Module | None,
        lm: LM | None,
        teacher_lm: LM | None,
        journal: EffectScopes | None,
    ) -> Candidate[M]:
        try:
            compiled = await self._make(
                seed, student, trainset, teacher, lm, teacher_lm, journal
            )
        except BootstrapFailedError as error:
            return Candidate(seed, None, None, error)
        evaluation = await evaluate(compiled.program, lm=lm, journal=journal)
        return Candidate(seed, compiled, evaluation)

    async def _make(
        self,
        seed: int,
        student: M,
        trainset: Sequence[Example],
        teacher: Module | None,
        lm: LM | None,
        teacher_lm: LM | None,
        journal: EffectScopes | None,
    ) -> Compiled[M]:
        if seed == ZERO_SHOT:
            return Compiled(student.reset_copy(), Report("zero-shot", demos={}))
        if seed == LABELED:
            program, sources = with_labeled_demos(
                student, trainset, k=self._max_labeled_demos
            )
            return Compiled(program, Report("LabeledFewShot", demos=sources))
        size, order = self._max_bootstrapped_demos, list(range(len(trainset)))
        if seed >= 0:
            random.Random(seed).shuffle(order)
            size = random.Random(seed).randint(1, size)
        compiled = await self._bootstrap(size).compile(
            student,
            [trainset[index] for index in order],
            teacher=teacher,
            lm=lm,
            teacher_lm=teacher_lm,
            journal=journal,
        )
        # The report speaks of the training set as it was given.
        demos = {
            name: tuple(
                replace(source, example=order[source.example]) for source in all_
            )
            for name, all_ in compiled.report.demos.items()
        }
        return replace(compiled, report=replace(compiled.report, demos=demos))


def _why_stopped(candidate: Candidate[M]) -> str | None:
    stopped = candidate.compiled.report.stopped if candidate.compiled else None
    return stopped or (candidate.evaluation.stopped if candidate.evaluation else None)


def _searched(
    tried: Sequence[Candidate[M]], best: Candidate[M], seconds: float
) -> Searched[M]:
    if best.compiled is None:
        assert best.error is not None
        raise best.error
    made = [c.compiled.report for c in tried if c.compiled is not None]
    scored = [c.evaluation for c in tried if c.evaluation is not None]
    report = replace(
        best.compiled.report,
        optimizer=BootstrapFewShotWithRandomSearch.__name__,
        attempts=sum(report.attempts for report in made),
        errors=sum(r.errors for r in made) + sum(e.errors for e in scored),
        extra_examples=sum(report.extra_examples for report in made),
        extra_calls=sum(report.extra_calls for report in made),
        calls=sum(r.calls for r in made) + sum(e.calls for e in scored),
        replayed=sum(r.replayed for r in made) + sum(e.replayed for e in scored),
        usage=sum(
            [*(r.usage for r in made), *(e.usage for e in scored)], start=Usage()
        ),
        seconds=seconds,
        stopped=_why_stopped(tried[-1]),
    )
    program = best.compiled.program
    program.compiled = True
    return Searched(program, report, tuple(tried))
