"""compare: two programs on the same examples, and whether one is better."""

from collections.abc import Sequence
from dataclasses import dataclass

from dspex.modules.module import Module
from dspex.modules.optimizers.errors import DatasetError
from dspex.modules.optimizers.evaluate import DEFAULT_TIMEOUT, Evaluate
from dspex.modules.optimizers.evaluation import Evaluation
from dspex.modules.optimizers.example import Example
from dspex.modules.optimizers.metrics import Metric
from dspex.modules.optimizers.statistics import PairedTest, paired_test
from dspex.providers.lm import LM


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two evaluations on one dev set, and the test of their difference."""

    first: Evaluation
    second: Evaluation
    test: PairedTest

    def __str__(self) -> str:
        return f"{self.first.score:.1f} -> {self.second.score:.1f}: {self.test}"


async def compare(
    first: Module,
    second: Module,
    devset: Sequence[Example],
    *,
    metric: Metric,
    lm: LM | None = None,
    concurrency: int = 8,
    timeout: float = DEFAULT_TIMEOUT,
    max_errors: int | None = 10,
) -> Comparison:
    """Tell whether `second` is better than `first`: "better by 10.0 points, p = 0.008".

    Raises:
        DatasetError: there is no example, or one does not say what its inputs are.
        EvaluationFailedError: `max_errors` examples of one of them failed.
    """
    evaluate = Evaluate(
        devset,
        metric=metric,
        concurrency=concurrency,
        timeout=timeout,
        max_errors=max_errors,
    )
    return compare_evaluations(
        await evaluate(first, lm=lm), await evaluate(second, lm=lm)
    )


def compare_evaluations(first: Evaluation, second: Evaluation) -> Comparison:
    """Compare two evaluations of the same dev set, by the examples that both have run.

    Raises:
        DatasetError: they are of different dev sets, or have no example in common.
    """
    pairs = [
        (one, other)
        for one, other in zip(first.outcomes, second.outcomes, strict=False)
        if "skipped" not in (one.status, other.status)
    ]
    if (
        not pairs
        or len(first.outcomes) != len(second.outcomes)
        or any(one.example != other.example for one, other in pairs)
    ):
        raise DatasetError("dev set", "the evaluations are not of the same examples")
    test = paired_test([one.score for one, _ in pairs], [b.score for _, b in pairs])
    return Comparison(first, second, test)
