"""LabeledFewShot: examples of the training set as demos."""

import random
from collections.abc import Sequence

from dspex.modules.optimizers.compiled import Compiled, DemoSource, M, Report
from dspex.modules.optimizers.evaluate import check_at_least
from dspex.modules.optimizers.example import Example


class LabeledFewShot:
    """Gives each predictor `k` training examples as demos; calls no model.

    They are drawn as dspy draws them; with `sample=False` they are the first.
    """

    def __init__(self, k: int = 16, *, sample: bool = True) -> None:
        check_at_least("k", k, 0)
        self.k = k
        self.sample = sample

    async def compile(self, student: M, trainset: Sequence[Example]) -> Compiled[M]:
        """Give a copy of the program with demos."""
        program, sources = with_labeled_demos(
            student, trainset, k=self.k, sample=self.sample
        )
        return Compiled(program, Report(type(self).__name__, demos=sources))


def with_labeled_demos(
    program: M, trainset: Sequence[Example], *, k: int, sample: bool = True
) -> tuple[M, dict[str, tuple[DemoSource, ...]]]:
    """Give a copy whose predictors have training examples as demos, and which."""
    copied = program.reset_copy()
    # One for all predictors: each draws other examples, and dspy the same.
    rng = random.Random(0)
    indices = range(len(trainset))
    size = min(k, len(trainset))
    sources: dict[str, tuple[DemoSource, ...]] = {}
    for name, predictor in copied.named_predictors():
        chosen = rng.sample(indices, size) if sample else list(indices[:size])
        predictor.demos = tuple(trainset[index] for index in chosen)
        sources[name] = tuple(DemoSource(index, bootstrapped=False) for index in chosen)
    return copied, sources
