"""What `dspex compile` does: a better version of a program, with demos, kept."""

import difflib
import json
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import yaml
from rich.console import Console

from dspex.modules.optimizers import (
    BootstrapFewShot,
    BootstrapFewShotWithRandomSearch,
    Compiled,
    Dataset,
    Evaluate,
    Evaluation,
    JournaledWork,
    LabeledFewShot,
    ProgramModule,
    compare_evaluations,
    open_work,
    refuse_leakage,
)
from dspex.modules.optimizers.journaled import EffectScopes, below
from dspex.modules.saved_state import save_program
from dspex.providers import LM, Budget, Budgeted
from dspex.runtime.engine import Program
from dspex.runtime.journal import Journal
from dspex.worker.eval_command import WorkOptions, keys_of, score_facts, search_path
from dspex.worker.models import read_lm
from dspex.worker.open_runtime import open_runtime
from dspex.worker.optimize_progress import WorkProgress, cost_text
from dspex.worker.optimize_subject import (
    BadOptionError,
    Subject,
    load_program,
    make_budget,
    model_of,
    read_metric,
    read_subject,
)
from dspex.worker.run_command import ALL_GOOD, SOME_FAILED, on_terminal
from dspex.worker.tables import console

BOOTSTRAP: Final = "bootstrap"
RANDOM_SEARCH: Final = "random-search"
LABELED: Final = "labeled"
OPTIMIZERS: Final = (BOOTSTRAP, RANDOM_SEARCH, LABELED)
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
    save: Path | None


async def compile_program(options: CompileOptions) -> int:
    """Compile, print what was gained and how, and give the exit status.

    Raises:
        DspexError: the program, the data, the metric or the model cannot be used, or
            too many tries failed.
    """
    work = options.work
    if options.optimizer not in OPTIMIZERS:
        raise BadOptionError(
            f"--optimizer {options.optimizer!r} is unknown: use {', '.join(OPTIMIZERS)}"
        )
    program = load_program(work.program)
    if options.save is None and (work.store is None or program is None):
        raise BadOptionError(
            "nowhere to keep the result: give --save FILE, or for a program file "
            "--store"
        )
    given = read_lm(work.lm, base_url=work.base_url, timeout=work.timeout)
    async with open_runtime(
        given, store=work.store, resume=False, search_path=search_path(work.program)
    ) as runtime:
        subject = read_subject(work.program, program, runtime)
        data = _Data.load(options, subject)
        lm = model_of(given, runtime)
        budget = make_budget(lm, work.budget_usd, work.price)
        journal = None if work.store is None else runtime.journal
        async with AsyncExitStack() as stack:
            kept: JournaledWork | None = None
            if journal is not None:
                what = options_identity(options, subject, data, lm)
                name = f"compile {subject.name}"
                kept = await stack.enter_async_context(
                    open_work(journal, name=name, what=what)
                )
                budget.end(lm.name, kept.spent)
            job = _Job(options, subject, data, lm, budget, kept)
            result = await job.run()
            if kept is not None and result.stopped is None:
                await kept.finish(result.compiled.report.to_json())
        version = await _keep(options, subject, result, journal, kept)
    _tell(options, subject, result, version=version, cost=budget)
    return ALL_GOOD if result.stopped is None else SOME_FAILED


@dataclass(frozen=True, slots=True)
class _Data:
    train: Dataset
    val: Dataset | None
    dev: Dataset | None

    @classmethod
    def load(cls, options: CompileOptions, subject: Subject) -> "_Data":
        work = options.work
        train = work.load(options.trainset, subject)
        val, dev = (
            None if path is None else work.load(path, subject)
            for path in (options.valset, options.devset)
        )
        if dev is not None:
            refuse_leakage("dev set", [*train, *(val or ())], dev)
        return cls(train, val, dev)


def options_identity(
    options: CompileOptions, subject: Subject, data: _Data, lm: LM
) -> dict[str, Any]:  # Any: JSON
    """Give all that decides about a compile; the same again goes on where it was."""
    return {
        "compile": subject.identity,
        "optimizer": options.optimizer,
        "settings": [
            options.max_bootstrapped_demos,
            options.max_labeled_demos,
            options.max_rounds,
            options.threshold,
            options.candidates,
        ],
        "train": keys_of(data.train),
        "val": keys_of(data.val or ()),
        "metric": options.work.metric,
        "lm": [lm.name, options.teacher_lm],
    }


@dataclass(frozen=True, slots=True)
class _Result:
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


class _Job:
    """The phases of a compile: score before, the compile itself, score after."""

    def __init__(
        self,
        options: CompileOptions,
        subject: Subject,
        data: _Data,
        lm: LM,
        budget: Budget,
        journal: EffectScopes | None,
    ) -> None:
        self._options = options
        self._subject = subject
        self._data = data
        self._metric = read_metric(options.work.metric)
        self._budget = budget
        self._lm = Budgeted(lm, budget)
        self._journal = journal
        self._progress = WorkProgress(
            Console(stderr=True), budget, is_shown=on_terminal()
        )

    async def run(self) -> _Result:
        with self._progress.shown():
            before = await self._score("before", self._subject.module)
            compiled = await self._compile()
            self._progress.end()
            after = await self._score("after", compiled.program)
        return _Result(compiled, before, after)

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
        options, train = self._options, self._data.train
        student, journal = self._subject.module, below(self._journal, "compile")
        work = options.work
        if options.optimizer == LABELED:
            self._progress.begin("compile", 1)
            return await LabeledFewShot(options.max_labeled_demos).compile(
                student, train
            )
        teacher_lm = self._teacher_lm()
        if options.optimizer == BOOTSTRAP:
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
                student, train, lm=self._lm, teacher_lm=teacher_lm, journal=journal
            )
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
            student,
            train,
            valset=self._data.val,
            lm=self._lm,
            teacher_lm=teacher_lm,
            journal=journal,
        )

    def _teacher_lm(self) -> LM | None:
        text, work = self._options.teacher_lm, self._options.work
        if text is None:
            return None
        lm = read_lm(text, base_url=work.base_url, timeout=work.timeout)
        if lm is None:
            raise BadOptionError("--teacher-lm embedded: give --lm embedded instead")
        return Budgeted(lm, self._budget)


async def _keep(
    options: CompileOptions,
    subject: Subject,
    result: _Result,
    journal: Journal | None,
    kept: JournaledWork | None,
) -> str | None:
    """Keep what was compiled; give the version that it is in the store."""
    module = result.compiled.program
    if not isinstance(module, ProgramModule):
        assert options.save is not None
        save_program(module, options.save)
        return None
    assert subject.program is not None
    program = module.to_program()
    if options.save is not None:
        body = program.model_dump(mode="json")
        options.save.write_text(json.dumps(body, indent=2) + "\n", encoding="utf-8")
    if journal is None or kept is None:
        return None
    parent = await journal.save_program(
        program.name, subject.program.model_dump(mode="json"), made_by="file"
    )
    saved = await journal.save_program(
        program.name,
        program.model_dump(mode="json"),
        parent=parent.version,
        made_by=f"{result.compiled.report.optimizer}, run {kept.id}",
        scores=result.scores,
    )
    return f"{saved.name}@{saved.version}"


def _tell(
    options: CompileOptions,
    subject: Subject,
    result: _Result,
    *,
    version: str | None,
    cost: Budget,
) -> None:
    report = result.compiled.report
    test = None
    if result.before is not None and result.after is not None:
        done = [o for o in result.after.outcomes if o.status != "skipped"]
        if done and result.stopped is None:
            test = compare_evaluations(result.before, result.after).test
    if options.work.as_json:
        facts = {
            "version": version,
            "saved": None if options.save is None else str(options.save),
            "before": result.before and score_facts(result.before),
            "after": result.after and score_facts(result.after),
            "p": None if test is None else test.p,
            "cost_usd": round(cost.cost, 6),
            "report": replace(report).to_json(),
        }
        print(json.dumps(facts))  # noqa: T201
        return
    out = console()
    if result.before is not None:
        out.print(f"before: {result.before}", highlight=False)
    if result.after is not None:
        out.print(f"after:  {result.after}", highlight=False)
    if test is not None:
        out.print(f"[bold]{test}[/bold]", highlight=False)
    if result.stopped is not None:
        out.print(f"[yellow]stopped: {result.stopped}[/yellow]", highlight=False)
    for name, sources in report.demos.items():
        made = ", ".join(
            f"{it.example}{'' if it.bootstrapped else ' (as it is)'}" for it in sources
        )
        out.print(
            f"demos of {name}, by training example: {made or 'none'}", markup=False
        )
    module = result.compiled.program
    if isinstance(module, ProgramModule) and subject.program is not None:
        _print_diff(out, subject.program, module.to_program())
    replayed = f", {report.replayed} from the store" if report.replayed else ""
    out.print(
        f"{report.calls} calls to compile{replayed}, {cost_text(cost)} in all, "
        f"{report.seconds:.1f} s",
        highlight=False,
    )
    for kept in filter(None, (version, options.save)):
        out.print(f"[bold]kept as {kept}[/bold]", highlight=False)


def _print_diff(out: Console, old: Program, new: Program) -> None:
    before, after = (
        yaml.safe_dump(it.model_dump(mode="json"), sort_keys=False).splitlines()
        for it in (old, new)
    )
    for line in difflib.unified_diff(before, after, lineterm="", n=1):
        style = {"+": "green", "-": "red"}.get(line[:1], "dim")
        out.print(line, style=style, markup=False, highlight=False)
