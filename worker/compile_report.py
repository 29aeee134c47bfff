"""What `dspex compile` tells at its end: scores, demos and their sources, a diff."""

import difflib
import json
from dataclasses import dataclass
from pathlib import Path

import yaml
from rich.console import Console

from dspex.modules.optimizers import ProgramModule, compare_evaluations
from dspex.modules.optimizers.statistics import PairedTest
from dspex.providers import Budget
from dspex.runtime.engine import Program
from dspex.worker.compile_job import CompileResult
from dspex.worker.eval_command import score_facts
from dspex.worker.optimize_progress import cost_text
from dspex.worker.tables import console


@dataclass(frozen=True, slots=True)
class CompileReport:
    """A compile that has ended, and where it is kept."""

    result: CompileResult
    before: Program | None
    version: str | None
    run: str | None
    save: Path | None
    budget: Budget

    def print_json(self) -> None:
        """Print one JSON object."""
        result, test = self.result, self._test()
        facts = {
            "version": self.version,
            "run": self.run,
            "saved": None if self.save is None else str(self.save),
            "before": result.before and score_facts(result.before),
            "after": result.after and score_facts(result.after),
            "p": None if test is None else test.p,
            "is_significant": None if test is None else test.is_significant,
            "cost_usd": round(self.budget.cost, 6),
            "stopped": result.stopped,
            "report": result.compiled.report.to_json(),
        }
        print(json.dumps(facts))  # noqa: T201

    def print_text(self) -> None:
        """Print it for a person."""
        out, result = console(), self.result
        report = result.compiled.report
        if result.before is not None:
            out.print(f"before: {result.before}", highlight=False)
        if result.after is not None:
            out.print(f"after:  {result.after}", highlight=False)
        if (test := self._test()) is not None:
            out.print(f"[bold]{test}[/bold]", highlight=False)
        if result.stopped is not None:
            out.print(f"[yellow]stopped: {result.stopped}[/yellow]", highlight=False)
        for name, sources in report.demos.items():
            made = ", ".join(
                f"{it.example}{'' if it.bootstrapped else ' (as it is)'}"
                for it in sources
            )
            out.print(
                f"demos of {name}, by training example: {made or 'none'}", markup=False
            )
        module = result.compiled.program
        if isinstance(module, ProgramModule) and self.before is not None:
            _print_diff(out, self.before, module.to_program())
        replayed = f", {report.replayed} from the store" if report.replayed else ""
        out.print(
            f"{report.calls} calls to compile{replayed}, {cost_text(self.budget)} in "
            f"all, {report.seconds:.1f} s",
            highlight=False,
        )
        if self.run is not None:
            out.print(f"run {self.run}", highlight=False)
        for kept in filter(None, (self.version, self.save)):
            out.print(f"[bold]kept as {kept}[/bold]", highlight=False)

    def _test(self) -> PairedTest | None:
        before, after = self.result.before, self.result.after
        if before is None or after is None or self.result.stopped is not None:
            return None
        return compare_evaluations(before, after).test


def _print_diff(out: Console, old: Program, new: Program) -> None:
    before, after = (
        yaml.safe_dump(it.model_dump(mode="json"), sort_keys=False).splitlines()
        for it in (old, new)
    )
    for line in difflib.unified_diff(before, after, lineterm="", n=1):
        style = {"+": "green", "-": "red"}.get(line[:1], "dim")
        out.print(line, style=style, markup=False, highlight=False)
