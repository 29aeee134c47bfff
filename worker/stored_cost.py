"""The cost of a run that the store has."""

from dspex.runtime.engine.run import total_cost
from dspex.runtime.journal import RunRow


def stored_cost(row: RunRow) -> float | None:
    """Give US dollars; None where a price is not known, or the run has not ended."""
    if row.steps is None:
        return None
    return total_cost(step.get("cost_usd") for step in row.steps)
