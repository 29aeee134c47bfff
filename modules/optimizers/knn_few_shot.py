"""KNNFewShot: for each input the training examples that are most like it as demos."""

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import trio

from dspex.modules.errors import ConfigError
from dspex.modules.module import Module
from dspex.modules.optimizers.bootstrap_few_shot import BootstrapFewShot
from dspex.modules.optimizers.compiled import Compiled, DemoSource, Report
from dspex.modules.optimizers.errors import DatasetError
from dspex.modules.optimizers.evaluate import DEFAULT_TIMEOUT, check_at_least
from dspex.modules.optimizers.example import Example
from dspex.modules.optimizers.journaled import EffectScopes
from dspex.modules.optimizers.metrics import Metric
from dspex.modules.prediction import Prediction
from dspex.providers.lm import LM

# Gives the indexes of that many texts, the most similar first.
Search: TypeAlias = Callable[[str, int], Sequence[int]]
# Makes a search in texts.
Retriever: TypeAlias = Callable[[Sequence[str]], Search]


class KNNFewShot:
    """Gives each predictor the `k` training examples most like the input as demos.

    With a `metric` the demos are bootstrapped: the teacher runs once on every training
    example, and where it is right its steps are the demo; the other examples, and all
    without a metric, are taken as they are. `retriever` makes a search from the texts
    of the examples' inputs; without one it is BM25, by bm25s (extra `knn`).

    An input that is itself in the training set never gets that example as a demo.

    Raises:
        ConfigError: a setting is out of range.
    """

    def __init__(
        self,
        k: int = 4,
        *,
        metric: Metric | None = None,
        retriever: Retriever | None = None,
        concurrency: int = 8,
        max_errors: int = 10,
        timeout: float = DEFAULT_TIMEOUT,
    ) -> None:
        check_at_least("k", k, 1)
        self._k = k
        self._metric = metric
        self._retriever = retriever or bm25
        self._concurrency = concurrency
        self._max_errors = max_errors
        self._timeout = timeout

    async def compile(
        self,
        student: Module,
        trainset: Sequence[Example],
        *,
        teacher: Module | None = None,
        lm: LM | None = None,
        teacher_lm: LM | None = None,
        journal: EffectScopes | None = None,
    ) -> "Compiled[NearestDemos]":
        """Give a module that runs a copy of the program, with demos for each input.

        Raises:
            DatasetError: the training set is empty, or an example does not say what
                its inputs are.
            CompileError: the student is compiled, or the teacher is another program.
            BootstrapFailedError: `max_errors` tries failed.
            ConfigError: bm25s is not installed.
        """
        started = trio.current_time()
        if not trainset:
            raise DatasetError("training set", "has no example to choose from")
        search = self._retriever([_text(example.inputs()) for example in trainset])
        program = student.reset_copy()
        names = [name for name, _ in program.named_predictors()]
        demos: dict[str, dict[int, Example]] = {
            name: dict(enumerate(trainset)) for name in names
        }
        report = Report(type(self).__name__, demos=dict.fromkeys(names, ()))
        if self._metric is not None:
            made = await BootstrapFewShot(
                metric=self._metric,
                max_bootstrapped_demos=len(trainset),
                max_labeled_demos=0,
                max_errors=self._max_errors,
                concurrency=self._concurrency,
                timeout=self._timeout,
            ).compile(
                student,
                trainset,
                teacher=teacher,
                lm=lm,
                teacher_lm=teacher_lm,
                journal=journal,
            )
            for name, predictor in made.program.named_predictors():
                made_from = made.report.demos[name]
                for source, demo in zip(made_from, predictor.demos, strict=True):
                    demos[name][source.example] = Example(demo)
            report = replace(made.report, optimizer=type(self).__name__)
        sources = {name: _sources(report.demos[name], len(trainset)) for name in names}
        nearest = NearestDemos(
            program, tuple(trainset), demos, search=search, k=self._k
        )
        seconds = trio.current_time() - started
        return Compiled(nearest, replace(report, demos=sources, seconds=seconds))


class NearestDemos(Module):
    """Runs a program with the demos nearest to each input; made by `KNNFewShot`."""

    compiled = True

    def __init__(
        self,
        program: Module,
        trainset: tuple[Example, ...],
        demos: Mapping[str, Mapping[int, Example]],
        *,
        search: Search,
        k: int,
    ) -> None:
        self.program = program
        self.k = k
        # Not in attributes that `copy` goes through: these do not change.
        self._pool = _Pool(trainset, demos, search)

    async def forward(self, /, **inputs: Any) -> Prediction:  # Any: as declared
        """Run the program with the demos for these inputs."""
        nearest = self._pool.nearest(inputs, self.k)
        program = self.program.copy()
        for name, predictor in program.named_predictors():
            predictor.demos = tuple(self._pool.demos[name][i] for i in nearest)
        return await program.run(inputs)


@dataclass(frozen=True, slots=True)
class _Pool:
    """The examples to choose from, as demos of each predictor."""

    trainset: tuple[Example, ...]
    demos: Mapping[str, Mapping[int, Example]]
    search: Search

    def nearest(self, inputs: Mapping[str, object], k: int) -> list[int]:
        """Give the nearest examples, but none with the same inputs; nearest last."""
        same = {i for i, it in enumerate(self.trainset) if it.inputs() == inputs}
        count = min(k + len(same), len(self.trainset))
        found = [i for i in self.search(_text(inputs), count) if i not in same]
        # The model gives most weight to what it has read last.
        return found[:k][::-1]


def bm25(texts: Sequence[str]) -> Search:
    """Make a search by BM25, which weighs the words that texts have in common.

    Raises:
        ConfigError: bm25s is not installed.
    """
    try:
        bm25s: Any = importlib.import_module("bm25s")  # Any: it has no types
    except ModuleNotFoundError:
        raise ConfigError(
            "retriever", None, "is BM25, which needs bm25s: pip install 'dspex[knn]'"
        ) from None
    index = bm25s.BM25()
    index.index(bm25s.tokenize(list(texts), show_progress=False), show_progress=False)

    def search(text: str, count: int) -> Sequence[int]:
        words = bm25s.tokenize(text, show_progress=False)
        found, _ = index.retrieve(words, k=count, show_progress=False)
        return [int(number) for number in found[0]]

    return search


def _text(inputs: Mapping[str, object]) -> str:
    return "\n".join(str(value) for value in inputs.values())


def _sources(bootstrapped: Sequence[DemoSource], count: int) -> tuple[DemoSource, ...]:
    known = {source.example: source for source in bootstrapped}
    return tuple(
        known.get(index, DemoSource(index, bootstrapped=False))
        for index in range(count)
    )
