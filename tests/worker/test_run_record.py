"""How large a run is that this process keeps."""

import pytest

from dspex import Program, Step
from dspex.modules.errors import Attempt
from dspex.runtime.engine import Run
from dspex.worker.run_record import RunRecord
from dspex.worker.run_texts import RunTexts

MB = 1_000_000
TEXT = "x" * MB


def record() -> RunRecord:
    step = Step(module="Predict", signature="question -> answer")
    return RunRecord("r", Program(name="p", steps={"answer": step}), {})


class OddAnswerError(Exception):
    def __init__(self, attempt: Attempt) -> None:
        super().__init__(attempt.problem)
        self.attempt = attempt


@pytest.mark.parametrize("error", [None, OddAnswerError(Attempt(TEXT, "no JSON"))])
def test_an_error_counts_with_what_it_tells(error: Exception | None) -> None:
    known = record()
    run = Run("r", "p", (), {"a": TEXT}) if error is None else None
    known.finish("succeeded" if run else "failed", run, error)
    assert MB < known.size_bytes < 1.01 * MB


@pytest.mark.parametrize(("is_kept", "size"), [(True, 4 * MB), (False, 0)])
def test_texts_count_while_they_are_kept(is_kept: bool, size: int) -> None:
    known = record()
    known.texts = RunTexts(known, is_kept=is_kept)
    texts = known.texts.step(("answer", None), ("answer",))
    source = texts.open()
    for _ in range(2):
        texts.add(source, "answer", TEXT[: MB // 2])
    known.finish("succeeded", None, None)
    assert size <= known.size_bytes < size + 10_000
