"""The bar of `dspex eval` and `dspex compile`."""

import io

from rich.console import Console

from dspex.modules.optimizers import Example, Outcome
from dspex.providers import Budget, Price, Usage
from dspex.worker.optimize_progress import WorkProgress, cost_text


def test_the_bar_shows_phase_count_score_and_cost() -> None:
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, width=120)
    budget = Budget(prices={"m": Price(1000, 0, 0)})
    progress = WorkProgress(console, budget, is_shown=True)
    with progress.shown():
        progress.begin("before", 4)
        for index, score in enumerate([1.0, 0.0]):
            budget.end("m", Usage(input_tokens=500))
            progress.on_outcome(Outcome(index, Example(), "scored", score))
        progress.begin("compile", 10)
        progress.on_example(0, True)
        progress.end()
    text = out.getvalue()
    assert "before" in text
    assert "2/4" in text
    assert "50.0 %" in text
    assert "$1.0000" in text
    assert "1 demos" in text
    assert "1/1" in text
    assert "left" in text


def test_without_a_price_tokens_are_told() -> None:
    budget = Budget(prices={})
    assert cost_text(budget) == "$0.0000"
    budget.end("unknown", Usage(input_tokens=70, output_tokens=5))
    assert cost_text(budget) == "75 tokens"
