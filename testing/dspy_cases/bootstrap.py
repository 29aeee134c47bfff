"""`bootstrap.json`: the demos that BootstrapFewShot chooses."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from dspex.modules import (
    ChainOfThought,
    ChatAdapter,
    Module,
    Predict,
    Prediction,
    TraceStep,
)
from dspex.modules.optimizers import (
    BootstrapFailedError,
    BootstrapFewShot,
    Dataset,
    Example,
    LabeledFewShot,
    Metric,
)
from dspex.modules.optimizers.compiled import Report
from dspex.providers import Request, Response
from dspex.runtime.errors import DspexError
from dspex.testing.dspy_cases.encoding import JSON, encode, same
from dspex.testing.dspy_cases.outcome import Difference, Ran
from dspex.testing.dspy_cases.predict import ERROR_NAMES, Case, read_capabilities
from dspex.testing.dspy_cases.script import to_answer
from dspex.testing.scripted_lm import ScriptedLM

_ANY_CHOICE: Final = "nonportable-hash"
# Begins the turn that shows a model what is wrong with its answer.
_COMPLAINT: Final = "That answer is not accepted"
_MANY: Final = 8


async def run_bootstrap_case(case: Case) -> Ran:
    """Compile a case's program, alone and with examples side by side, and compare."""
    tags: tuple[str, ...] = tuple(case.get("tags", ()))
    notes = [] if case["trainset"] else ["empty-trainset"]
    difference, is_repaired = await _differs(case, tags, concurrency=1)
    if is_repaired:
        notes.append("repair-turn")
    # Equal questions side by side would draw a rule's answers in any order.
    if difference is None and not _asks_twice(case):
        difference, _ = await _differs(case, tags, concurrency=_MANY)
    return Ran(case["id"], tags, difference, notes)


def _asks_twice(case: Case) -> bool:
    questions = [row["question"] for row in case["trainset"]]
    return len(set(questions)) < len(questions)


async def _differs(
    case: Case, tags: Sequence[str], *, concurrency: int
) -> tuple[Difference | None, bool]:
    """Compile and compare; and whether an answer was repaired meanwhile."""
    lm = _ruled_lm(case["rules"], case.get("lm_capabilities") or {})
    trainset = Dataset.from_rows(case["trainset"], inputs=["question"])
    params: dict[str, Any] = dict(case["params"])  # Any: JSON
    if params.get("max_errors") is None:
        params.pop("max_errors", None)
    student = PROGRAMS[case["program"]]()
    found: Module | Exception
    report: Report | None = None
    try:
        optimizer = BootstrapFewShot(
            metric=METRICS[case["metric"]], concurrency=concurrency, **params
        )
        teacher = await _teacher(case, trainset)
        made = await optimizer.compile(student, trainset, teacher=teacher, lm=lm)
        found, report = made.program, made.report
    except BootstrapFailedError as error:
        found = error.cause
    except DspexError as error:
        found = error
    # What runs ahead for nothing costs calls: only without it do they compare.
    calls = len(lm.requests) if concurrency == 1 else 0
    difference = _compare(
        found, report, case, any_choice=_ANY_CHOICE in tags, calls=calls
    )
    is_repaired = any(
        request.messages[-1].text.startswith(_COMPLAINT) for request in lm.requests
    )
    if difference is not None and is_repaired:
        difference = Difference(difference.text, "reads more")
    return difference, is_repaired


async def _teacher(case: Case, trainset: Sequence[Example]) -> Module | None:
    if case["teacher"] is None:
        return None
    teacher = PROGRAMS[case["program"]]()
    if case["teacher"] == "labeled_compiled":
        teacher = (await LabeledFewShot(k=2).compile(teacher, trainset)).program
        teacher.compiled = True
    return teacher


def _compare(
    found: Module | Exception,
    report: Report | None,
    case: Case,
    *,
    any_choice: bool,
    calls: int,
) -> Difference | None:
    expected: Mapping[str, JSON] = case["expected"]
    if isinstance(found, Exception):
        name = ERROR_NAMES.get(type(found).__name__, type(found).__name__)
        if expected["outcome"] == "ok":
            return Difference(f"dspy is fine, dspex says {name}: {found}")
        wanted = expected["error"]["class"]
        if name == wanted:
            return None
        return Difference(f"dspy fails with {wanted}, dspex with {name}: {found}")
    if expected["outcome"] == "error":
        return Difference(f"dspy fails with {expected['error']['class']}, dspex not")
    demos = {
        name: [encode(dict(demo)) for demo in predictor.demos]
        for name, predictor in found.named_predictors()
    }
    equal = _same_members if any_choice else same
    if not equal(demos, expected["demos"]):
        return Difference(f"dspy has the demos {expected['demos']}, dspex {demos}")
    if report is not None and report.errors != expected["error_count"]:
        return Difference(
            f"dspy counts {expected['error_count']} errors, dspex {report.errors}"
        )
    if "lm_calls" in expected and calls > expected["lm_calls"]:
        return Difference(f"dspy calls {expected['lm_calls']} times, dspex {calls}")
    return None


def _same_members(demos: JSON, expected: JSON) -> bool:
    """Whether the demos are as many, of the same kind, where the choice is free.

    A demo may be another step of the same example, so only the labeled ones are fixed.
    """
    if demos.keys() != expected.keys():
        return False
    return all(
        len(given) == len(wanted)
        and [bool(d.get("augmented")) for d in given]
        == [bool(d.get("augmented")) for d in wanted]
        and same(_labeled(given), _labeled(wanted))
        for given, wanted in ((demos[name], expected[name]) for name in demos)
    )


def _labeled(demos: JSON) -> JSON:
    return [demo for demo in demos if not demo.get("augmented")]


def _ruled_lm(
    rules: Sequence[Mapping[str, JSON]], capabilities: Mapping[str, JSON]
) -> ScriptedLM:
    used: Counter[int] = Counter()

    def answer(request: Request) -> Response | Exception:
        asked = next(
            message.text
            for message in reversed(request.messages)
            if message.role == "user" and not message.text.startswith(_COMPLAINT)
        )
        for number, rule in enumerate(rules):
            if all(part in asked for part in rule["contains"]):
                completions = rule["completions"]
                item = completions[min(used[number], len(completions) - 1)]
                used[number] += 1
                return to_answer(item)
        return RuntimeError(f"no rule for {asked!r}")

    return ScriptedLM(answer, capabilities=read_capabilities(capabilities))


# --- the programs of the cases


def _predict(signature: str = "question -> answer") -> Predict:
    return Predict(signature, adapter=ChatAdapter(), strict_inputs=False)


def _cot(signature: str) -> ChainOfThought:
    return ChainOfThought(signature, adapter=ChatAdapter(), strict_inputs=False)


class TwoStep(Module):
    """A search query, then an answer."""

    def __init__(self) -> None:
        self.first = _predict("question -> query")
        self.second = _cot("question, query -> answer")

    async def forward(self, question: str) -> Prediction:
        """Give the second predictor's prediction."""
        query = (await self.first(question=question)).query
        return await self.second(question=question, query=query)


class Twice(Module):
    """One predictor, called twice."""

    def __init__(self) -> None:
        self.step = _predict()

    async def forward(self, question: str) -> Prediction:
        """Give the first answer."""
        answer = (await self.step(question=question)).answer
        await self.step(question=f"check: {answer}")
        return Prediction(answer=answer)


PROGRAMS: Final[Mapping[str, Callable[[], Module]]] = {
    "predict": _predict,
    "cot": lambda: _cot("question -> answer"),
    "predict_int": lambda: _predict("question -> answer: int"),
    "two_step": TwoStep,
    "twice": Twice,
}


# --- the metrics of the cases


def _norm(value: object) -> str:
    return " ".join(str(value).lower().split())


def _exact(example: Example, prediction: Prediction) -> bool:
    return _norm(example.answer) == _norm(prediction.answer)


def _contains(example: Example, prediction: Prediction) -> bool:
    return _norm(example.answer) in _norm(prediction.answer)


def _overlap(example: Example, prediction: Prediction) -> float:
    gold = set(_norm(example.answer).split())
    return len(gold & set(_norm(prediction.answer).split())) / max(len(gold), 1)


def _raises_on_bad(example: Example, prediction: Prediction) -> bool:
    if _norm(prediction.answer) == "bad":
        raise ValueError("bad answer")
    return _exact(example, prediction)


def _exact_and_short_reasoning(
    example: Example, prediction: Prediction, trace: Sequence[TraceStep]
) -> bool:
    reasonings = [str(step.prediction.outputs.get("reasoning", "")) for step in trace]
    return _exact(example, prediction) and all(len(text) <= 20 for text in reasonings)


METRICS: Final[Mapping[str, Metric | None]] = {
    "exact": _exact,
    "contains": _contains,
    "overlap": _overlap,
    "raises_on_bad": _raises_on_bad,
    "exact_and_short_reasoning": _exact_and_short_reasoning,
    "none": None,
}
