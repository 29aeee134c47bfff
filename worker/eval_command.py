"""What `dspex eval` does: a program's score on examples, each outcome told."""

import json
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from textwrap import shorten
from typing import Any, Final

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from dspex.modules.optimizers import Dataset, Evaluate, Evaluation, Outcome, open_work
from dspex.modules.optimizers.dataset import example_key
from dspex.providers import LM, Budgeted
from dspex.worker.app import Runtime
from dspex.worker.models import open_lm
from dspex.worker.open_runtime import POOL, open_runtime
from dspex.worker.optimize_progress import WorkProgress, cost_text
from dspex.worker.optimize_subject import (
    BadOptionError,
    Subject,
    check_metric_field,
    load_program,
    make_budget,
    model_of,
    read_metric,
    read_subject,
)
from dspex.worker.run_command import ALL_GOOD, NOTHING_DONE, SOME_FAILED, on_terminal
from dspex.worker.tables import console

_CELL: Final = 60


@dataclass(frozen=True, slots=True)
class WorkOptions:
    """What `dspex eval` and `dspex compile` have in common."""

    program: str
    metric: str
    inputs: tuple[str, ...]
    lm: str
    base_url: str | None
    concurrency: int
    timeout: float
    pool_max: int
    max_errors: int
    budget_usd: float | None
    price: str | None
    store: str | None
    as_json: bool

    def open_runtime(self, lm: LM | None) -> AbstractAsyncContextManager[Runtime]:
        """Open the runtime of the work; None for the embedded model."""
        return open_runtime(
            lm,
            store=self.store,
            resume=False,
            search_path=_search_path(self.program),
            embedded_timeout=self.timeout,
            pool=replace(POOL, max_size=self.pool_max),
        )

    def load(self, path: Path, subject: Subject) -> Dataset:
        """Read examples of the subject.

        Raises:
            DatasetError: they cannot be read, or a row is bad.
            BadOptionError: it is not known which fields are inputs, or the metric's
                field is none.
        """
        if not self.inputs and subject.program is None:
            raise BadOptionError(
                "which fields of the examples are inputs? give --inputs NAME,NAME"
            )
        examples = Dataset.load(path, inputs=self.inputs or subject.inputs)
        check_metric_field(self.metric, subject, examples)
        return examples


@dataclass(frozen=True, slots=True)
class EvalOptions:
    """What `dspex eval` was told."""

    work: WorkOptions
    devset: Path
    out: Path | None
    worst: int


async def evaluate_program(options: EvalOptions) -> int:
    """Evaluate, print the score and the worst examples, and give the exit status.

    Raises:
        DspexError: the program, the data, the metric or the model cannot be used.
    """
    work = options.work
    program = await load_program(work.program, store=work.store)
    metric = read_metric(work.metric)
    check_out(options.out)
    async with (
        open_lm(work.lm, base_url=work.base_url, timeout=work.timeout) as given,
        work.open_runtime(given) as runtime,
    ):
        subject = read_subject(work.program, program, runtime)
        devset = work.load(options.devset, subject)
        lm = model_of(runtime)
        budget = make_budget(lm, work.budget_usd, work.price)
        progress = WorkProgress(Console(stderr=True), budget, is_shown=on_terminal())
        evaluate = Evaluate(
            devset,
            metric=metric,
            concurrency=work.concurrency,
            timeout=work.timeout,
            max_errors=None,
            on_outcome=progress.on_outcome,
        )
        budgeted = Budgeted(lm, budget)
        with progress.shown():
            progress.begin("evaluate", len(devset))
            if work.store is None:
                evaluation = await evaluate(subject.module, lm=budgeted)
            else:
                what = {
                    "eval": subject.identity,
                    "devset": keys_of(devset),
                    "metric": work.metric,
                    "lm": lm.name,
                }
                name = f"eval {subject.name}"
                async with open_work(runtime.journal, name=name, what=what) as kept:
                    budget.end(lm.name, kept.spent)
                    evaluation = await evaluate(
                        subject.module, lm=budgeted, journal=kept
                    )
                    if evaluation.stopped is None:
                        await kept.finish({"score": evaluation.score})
    if options.out is not None:
        save_outcomes(evaluation, options.out)
    facts = {**score_facts(evaluation), "cost_usd": round(budget.cost, 6)}
    if work.as_json:
        print(json.dumps(facts))  # noqa: T201
    else:
        out = console()
        out.print(f"[bold]{evaluation}[/bold]", highlight=False)
        print_worst(out, evaluation.worst(options.worst))
        out.print(_took(evaluation, cost_text(budget)), highlight=False)
    if not evaluation.errors and evaluation.stopped is None:
        return ALL_GOOD
    return SOME_FAILED if len(evaluation.done) > evaluation.errors else NOTHING_DONE


def _search_path(program: str) -> list[Path]:
    """Give where its functions and metrics lie: beside its file, and here."""
    return list(dict.fromkeys([Path(program).resolve().parent, Path.cwd()]))


def keys_of(examples: Sequence[Any]) -> list[str]:  # Any: Example
    """Give what tells these examples from others, in their order."""
    return [example_key(example) for example in examples]


def check_out(path: Path | None) -> None:
    """Pass when outcomes can be written there.

    Raises:
        BadOptionError: it is neither JSONL nor CSV, or in no folder.
    """
    if path is None:
        return
    if path.suffix not in {".jsonl", ".csv"}:
        raise BadOptionError(f"--out {path} is neither a .jsonl nor a .csv file")
    if not path.parent.is_dir():
        raise BadOptionError(f"--out {path}: there is no folder {path.parent}")


def save_outcomes(evaluation: Evaluation, path: Path) -> None:
    """Write one line an example."""
    if path.suffix == ".csv":
        evaluation.save_csv(path)
    else:
        evaluation.save_jsonl(path)


def score_facts(evaluation: Evaluation) -> dict[str, Any]:  # Any: JSON
    """Give the score as plain JSON."""
    low, high = evaluation.interval
    return {
        "score": evaluation.score,
        "interval": [low, high],
        "examples": len(evaluation.done),
        "errors": evaluation.errors,
        "calls": evaluation.calls,
        "replayed": evaluation.replayed,
        "seconds": round(evaluation.seconds, 3),
        "stopped": evaluation.stopped,
    }


def print_worst(out: Console, worst: Sequence[Outcome]) -> None:
    """Print a table of the outcomes that are not perfect."""
    bad = [outcome for outcome in worst if outcome.score < 1]
    if not bad:
        return
    table = Table(title="worst", title_justify="left", box=box.SIMPLE_HEAD)
    for name in ("example", "score", "inputs", "wanted", "given"):
        table.add_column(name, overflow="fold")
    for outcome in bad:
        example = outcome.example
        given = "" if outcome.prediction is None else outcome.prediction.outputs
        told = outcome.feedback or given
        cells = (
            example.inputs(),
            example.labels(),
            told if outcome.error is None else f"{outcome.status}: {outcome.error}",
        )
        table.add_row(
            str(outcome.index),
            f"{outcome.score:g}",
            *(escape(_short(cell)) for cell in cells),
            style="red" if outcome.error is not None else None,
        )
    out.print(table)


def _short(value: object) -> str:
    if isinstance(value, dict):
        value = ", ".join(f"{name}={it}" for name, it in value.items())  # pyright: ignore[reportUnknownVariableType]
    return shorten(str(value), _CELL, placeholder=" …")


def _took(evaluation: Evaluation, cost: str) -> str:
    replayed = f", {evaluation.replayed} from the store" if evaluation.replayed else ""
    return f"{evaluation.calls} calls{replayed}, {cost}, {evaluation.seconds:.1f} s"
