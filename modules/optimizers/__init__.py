"""Data sets, metrics, evaluation, and optimizers that find demos."""

from dspex.modules.optimizers.bootstrap_few_shot import BootstrapFewShot
from dspex.modules.optimizers.compare import (
    Comparison,
    compare,
    compare_evaluations,
)
from dspex.modules.optimizers.compiled import Compiled, DemoSource, Report
from dspex.modules.optimizers.dataset import Dataset, refuse_leakage
from dspex.modules.optimizers.errors import (
    BootstrapFailedError,
    CompileError,
    DatasetError,
    ItemTimeoutError,
    MetricError,
)
from dspex.modules.optimizers.evaluate import Evaluate
from dspex.modules.optimizers.evaluation import (
    Evaluation,
    EvaluationFailedError,
    Outcome,
)
from dspex.modules.optimizers.example import Example
from dspex.modules.optimizers.hosted import HostedOptimizer
from dspex.modules.optimizers.journaled import (
    EffectScopes,
    JournaledWork,
    open_work,
)
from dspex.modules.optimizers.judge import lm_judge
from dspex.modules.optimizers.knn_few_shot import KNNFewShot, NearestDemos, bm25
from dspex.modules.optimizers.labeled_few_shot import LabeledFewShot
from dspex.modules.optimizers.metrics import (
    Metric,
    Score,
    answer_in_text,
    exact_match,
    f1,
    numeric,
    per_field,
)
from dspex.modules.optimizers.program_module import HostedStep, ProgramModule
from dspex.modules.optimizers.random_search import (
    BootstrapFewShotWithRandomSearch,
    Candidate,
    Searched,
)
from dspex.modules.optimizers.statistics import (
    PairedTest,
    confidence_interval,
    paired_test,
)

__all__ = [
    "BootstrapFailedError",
    "BootstrapFewShot",
    "BootstrapFewShotWithRandomSearch",
    "Candidate",
    "Comparison",
    "CompileError",
    "Compiled",
    "Dataset",
    "DatasetError",
    "DemoSource",
    "EffectScopes",
    "Evaluate",
    "Evaluation",
    "EvaluationFailedError",
    "Example",
    "HostedOptimizer",
    "HostedStep",
    "ItemTimeoutError",
    "JournaledWork",
    "KNNFewShot",
    "LabeledFewShot",
    "Metric",
    "MetricError",
    "NearestDemos",
    "Outcome",
    "PairedTest",
    "ProgramModule",
    "Report",
    "Score",
    "Searched",
    "answer_in_text",
    "bm25",
    "compare",
    "compare_evaluations",
    "confidence_interval",
    "exact_match",
    "f1",
    "lm_judge",
    "numeric",
    "open_work",
    "paired_test",
    "per_field",
    "refuse_leakage",
]
