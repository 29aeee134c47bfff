"""CompileJob: score before, the compile itself, score after; each within the budget."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from rich.console import Console

from dspex.modules.hosted import HostedBackend
from dspex.modules.optimizers import (
    BootstrapFewShot,
    BootstrapFewShotWithRandomSearch,
    Compiled,
    Dataset,
    Evaluate,
    Evaluation,
    HostedOptimizer,
    LabeledFewShot,
    refuse_leakage,
)
from dspex.modules.optimizers.dspy_metrics import dspy_metric
from dspex.modules.optimizers.journaled import EffectScopes, below
from dspex.providers import LM, Budget, Budgeted
from dspex.worker.eval_command import WorkOptions, keys_of
from dspex.worker.models import EMBEDDED
from dspex.worker.optimize_progress import WorkProgress
from dspex.worker.optimize_subject import BadOptionError, Subject, read_metric
from dspex.worker.run_command import on_terminal

BOOTSTRAP: Final = "bootstrap"
RANDOM_SEARCH: Final = "random-search"
LABELED: Final = "labeled"
OPTIMIZERS: Final = (BOOTSTRAP, RANDOM_SEARCH, LABELED)
DSPY: Final = "dspy."
"""What the names of dspy's own optimizers begin with."""

# Of random search: no demos, labeled ones, bootstrapped in the data's order.
_FIXED_CANDIDATES: Final = 3


@dataclass(frozen=True, slots=True)
class CompileOptions:
    """What `dspex compile` was told."""

    work: WorkOptions
    optimizer: str
    trainset: Path
    valset: Path | None
    devset: Path | None
    teacher_lm: str | None
    max_bootstrapped_demos: int
    max_labeled_demos: int
    max_rounds: int
    threshold: float | None
    candidates: int
    settings: Mapping[str, Any]  # Any: JSON
    compile_settings: Mapping[str, Any]  # Any: JSON
    compile_timeout: float | None
    save: Path | None

    def check(self) -> None:
        """Pass when there is such an optimizer, and the settings are for it.

        Raises:
            BadOptionError: there is none, or they are for another.
        """
        is_hosted = self.optimizer.startswith(DSPY)
        if self.optimizer not in OPTIMIZERS and not is_hosted:
            raise BadOptionError(
                f"--optimizer {self.optimizer!r} is unknown: use "
                f"{', '.join(OPTIMIZERS)}, or {DSPY}NAME for one of dspy's "
                "(dspy.MIPROv2, dspy.GEPA, dspy.COPRO)"
            )
        if (self.settings or self.compile_settings) and not is_hosted:
            raise BadOptionError(
                "--settings and --compile-settings are for optimizers of dspy: "
                f"{self.optimizer} has options of its own"
            )
        if self.compile_timeout is not None and not is_hosted:
            raise BadOptionError(
                f"--compile-timeout is for optimizers of dspy: {self.optimizer} takes "
                "--timeout for each example"
            )
        metric = self.work.metric
        if is_hosted and metric.partition(":")[0] == "judge":
            raise BadOptionError(
                f"--metric {metric!r} asks a model here, and {self.optimizer} judges "
                "in dspy's process: give a metric by field, or package.module:function"
            )
        if self.teacher_lm == EMBEDDED:
            raise BadOptionError("--teacher-lm embedded: give --lm embedded instead")
        if is_hosted and self.teacher_lm is not None:
            raise BadOptionError(
                f"--teacher-lm is not for {self.optimizer}, which has one model"
            )


@dataclass(frozen=True, slots=True)
class CompileData:
    """The examples of a compile: to train on, to choose by, to score with."""

    train: Dataset
    val: Dataset | None
    dev: Dataset | None

    @classmethod
    def load(cls, options: CompileOptions, subject: Subject) -> "CompileData":
        """Read them.

        Raises:
            DatasetError: they cannot be read, or an example is in two of them.
        """
        work = options.work
        train = work.load(options.trainset, subject)
        val, dev = (
            None if path is None else work.load(path, subject)
            for path in (options.valset, options.devset)
        )
        if dev is not None:
            refuse_leakage("dev set", [*train, *(val or ())], dev)
        return cls(train, val, dev)


def identity_of(
    options: CompileOptions, subject: Subject, data: CompileData, lm: LM
) -> dict[str, Any]:  # Any: JSON
    """Give all that decides about a compile; the same again goes on where it was."""
    hosted = [dict(options.settings), dict(options.compile_settings)]
    return {
        "compile": subject.identity,
        "optimizer": options.optimizer,
        "settings": [
            options.max_bootstrapped_demos,
            options.max_labeled_demos,
            options.max_rounds,
            options.threshold,
            options.candidates,
            *(hosted if any(hosted) else ()),
        ],
        "train": keys_of(data.train),
        "val": keys_of(data.val or ()),
        "metric": options.work.metric,
        "lm": [lm.name, options.teacher_lm],
    }


@dataclass(frozen=True, slots=True)
class CompileResult:
    """What came of a compile, and the scores on the dev set."""

    compiled: Compiled[Any]  # Any: Module
    before: Evaluation | None
    after: Evaluation | None

    @property
    def stopped(self) -> str | None:
        """Why it ended early."""
        evaluations = [it.stopped for it in (self.before, self.after) if it is not None]
        return next(filter(None, [self.compiled.report.stopped, *evaluations]), None)

    @property
    def scores(self) -> dict[str, float]:
        """The scores on the whole dev set, where there are any."""
        named = {"before": self.before, "after": self.after}
        return {
            name: it.score
            for name, it in named.items()
            if it is not None and it.stopped is None
        }


class CompileJob:
    """The phases of a compile, shown as they go."""

    def __init__(
        self,
        options: CompileOptions,
        subject: Subject,
        data: CompileData,
        lm: LM,
        budget: Budget,
        *,
        teacher: LM | None,
        hosted: HostedBackend,
        journal: EffectScopes | None,
    ) -> None:
        self._options = options
        self._subject = subject
        self._data = data
        self._metric = read_metric(options.work.metric)
        self._lm = Budgeted(lm, budget)
        self._teacher = None if teacher is None else Budgeted(teacher, budget)
        self._hosted = hosted
        self._journal = journal
        self._progress = WorkProgress(
            Console(stderr=True), budget, is_shown=on_terminal()
        )

    async def run(self) -> CompileResult:
        """Go through all of them.

        Raises:
            DspexError: it cannot be compiled, or too many tries failed.
        """
        with self._progress.shown():
            before = await self._score("before", self._subject.module)
            compiled = await self._compile()
            self._progress.end()
            after = await self._score("after", compiled.program)
        return CompileResult(compiled, before, after)

    async def _score(self, phase: str, module: Any) -> Evaluation | None:  # Any: Module
        dev, work = self._data.dev, self._options.work
        if dev is None:
            return None
        self._progress.begin(phase, len(dev))
        evaluate = Evaluate(
            dev,
            metric=self._metric,
            concurrency=work.concurrency,
            timeout=work.timeout,
            max_errors=None,
            on_outcome=self._progress.on_outcome,
        )
        journal = below(self._journal, phase)
        return await evaluate(module, lm=self._lm, journal=journal)

    async def _compile(self) -> Compiled[Any]:  # Any: Module
        match self._options.optimizer:
            case "labeled":
                self._progress.begin("compile", 1)
                labeled = LabeledFewShot(self._options.max_labeled_demos)
                return await labeled.compile(self._subject.module, self._data.train)
            case "bootstrap":
                return await self._bootstrap()
            case "random-search":
                return await self._search()
            case name:
                return await self._compile_hosted(name)

    async def _bootstrap(self) -> Compiled[Any]:  # Any: Module
        options, work, train = self._options, self._options.work, self._data.train
        self._progress.begin("compile", len(train))
        bootstrap = BootstrapFewShot(
            metric=self._metric,
            metric_threshold=options.threshold,
            max_bootstrapped_demos=options.max_bootstrapped_demos,
            max_labeled_demos=options.max_labeled_demos,
            max_rounds=options.max_rounds,
            max_errors=work.max_errors,
            concurrency=work.concurrency,
            timeout=work.timeout,
            on_example=self._progress.on_example,
        )
        return await bootstrap.compile(
            self._subject.module,
            train,
            lm=self._lm,
            teacher_lm=self._teacher,
            journal=below(self._journal, "compile"),
        )

    async def _search(self) -> Compiled[Any]:  # Any: Module
        options, work = self._options, self._options.work
        self._progress.begin("candidates", options.candidates + _FIXED_CANDIDATES)
        search = BootstrapFewShotWithRandomSearch(
            metric=self._metric,
            metric_threshold=options.threshold,
            max_bootstrapped_demos=options.max_bootstrapped_demos,
            max_labeled_demos=options.max_labeled_demos,
            max_rounds=options.max_rounds,
            num_candidates=options.candidates,
            max_errors=work.max_errors,
            concurrency=work.concurrency,
            timeout=work.timeout,
            on_candidate=lambda it: self._progress.advance(
                "no score" if it.score is None else f"{it.score:.1f} %"
            ),
        )
        return await search.compile(
            self._subject.module,
            self._data.train,
            valset=self._data.val,
            lm=self._lm,
            teacher_lm=self._teacher,
            journal=below(self._journal, "compile"),
        )

    async def _compile_hosted(self, name: str) -> Compiled[Any]:  # Any: Module
        options = self._options
        self._progress.begin("evaluations", None)
        optimizer = HostedOptimizer(
            name,
            metric=dspy_metric(options.work.metric) or options.work.metric,
            pool=await self._hosted.pool(),
            settings=options.settings,
            compile_settings=options.compile_settings,
            timeout=options.compile_timeout,
            on_progress=self._progress.on_event,
        )
        return await optimizer.compile(
            self._subject.module,
            self._data.train,
            valset=self._data.val,
            lm=self._lm,
            journal=below(self._journal, "compile"),
        )
