"""How sure a score is, and whether a difference is more than chance."""

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist, fmean
from typing import Final, Literal, TypeAlias

Test: TypeAlias = Literal["mcnemar", "permutation"]

SIGNIFICANT: Final = 0.05

_Z95 = NormalDist().inv_cdf(0.975)
_RESAMPLES = 10_000


def confidence_interval(scores: Sequence[float]) -> tuple[float, float]:
    """Give the 95 % interval of the mean, in the scores' unit.

    Wilson's for scores of 0 and 1, the normal one for others; (0, 1) for none.
    """
    n = len(scores)
    if n == 0:
        return 0.0, 1.0
    mean = fmean(scores)
    if all(score in (0.0, 1.0) for score in scores):
        middle = (mean + _Z95**2 / (2 * n)) / (1 + _Z95**2 / n)
        half = (
            _Z95
            * math.sqrt(mean * (1 - mean) / n + _Z95**2 / (4 * n * n))
            / (1 + _Z95**2 / n)
        )
        return max(0.0, middle - half), min(1.0, middle + half)
    if n == 1:
        return -math.inf, math.inf
    variance = sum((score - mean) ** 2 for score in scores) / (n - 1)
    half = _Z95 * math.sqrt(variance / n)
    return mean - half, mean + half


@dataclass(frozen=True, slots=True)
class PairedTest:
    """Two programs on the same examples: the difference, how sure it is, and chance.

    `difference` is the mean of the second's scores minus the first's; `p` is how
    likely so large a difference is between programs that are equally good. `better`
    and `worse` count the examples whose score rose and fell.
    """

    difference: float
    interval: tuple[float, float]
    p: float
    better: int
    worse: int
    n: int
    test: Test

    @property
    def is_significant(self) -> bool:
        """Whether so large a difference would be chance in less than 1 of 20 cases."""
        return self.p < SIGNIFICANT

    def __str__(self) -> str:
        if not self.better and not self.worse:
            return f"no difference: the same score on each of {self.n} examples"
        low, high = (100 * bound for bound in self.interval)
        points = 100 * self.difference
        if not self.is_significant:
            found = f"no difference found: {points:+.1f} points"
        elif points >= 0:
            found = f"better by {points:.1f} points"
        else:
            found = f"worse by {-points:.1f} points"
        return (
            f"{found} (95 % CI {low:.1f} to {high:.1f}), {self.better} examples better "
            f"and {self.worse} worse of {self.n}, {self.test} p = {self.p:.3g}"
        )


def paired_test(
    first: Sequence[float], second: Sequence[float], *, seed: int = 0
) -> PairedTest:
    """Compare scores of the same examples, in the same order.

    Scores of 0 and 1 are compared by McNemar's exact test, others by a sign-flipping
    permutation test of 10,000 draws; the interval is that of the paired bootstrap.

    Raises:
        ValueError: there are none, or not as many of the one as of the other.
    """
    if len(first) != len(second) or not first:
        raise ValueError(
            f"a paired test needs as many scores of both, and at least one: "
            f"{len(first)} and {len(second)}"
        )
    differences = [b - a for a, b in zip(first, second, strict=True)]
    better = sum(d > 0 for d in differences)
    worse = sum(d < 0 for d in differences)
    rng = random.Random(seed)
    test: Test = "permutation"
    if all(score in (0.0, 1.0) for score in (*first, *second)):
        test, p = "mcnemar", _mcnemar(better, worse)
    else:
        p = _sign_flip(differences, rng)
    return PairedTest(
        fmean(differences),
        _bootstrap_interval(differences, rng),
        p,
        better,
        worse,
        len(differences),
        test,
    )


def _mcnemar(better: int, worse: int) -> float:
    n = better + worse
    tail = sum(math.comb(n, k) for k in range(min(better, worse) + 1))
    return min(1.0, float(2 * tail / 2**n))


def _sign_flip(differences: Sequence[float], rng: random.Random) -> float:
    moved = [abs(d) for d in differences if d]
    seen = abs(sum(differences)) - 1e-12
    hits = sum(
        abs(sum(d if rng.random() < 0.5 else -d for d in moved)) >= seen
        for _ in range(_RESAMPLES)
    )
    return (hits + 1) / (_RESAMPLES + 1)


def _bootstrap_interval(
    differences: Sequence[float], rng: random.Random
) -> tuple[float, float]:
    n = len(differences)
    draws = 2_000
    means = sorted(fmean(rng.choices(differences, k=n)) for _ in range(draws))
    return means[int(0.025 * draws)], means[int(0.975 * draws) - 1]
