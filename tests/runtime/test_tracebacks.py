"""Errors that are kept hold on to little."""

import pytest

from dspex.runtime.engine import Run
from dspex.runtime.tracebacks import RecentTracebacks


def raised(error: Exception, cause: Exception | None = None) -> Exception:
    try:
        raise error from cause  # noqa: TRY301
    except Exception as caught:  # noqa: BLE001 - it is given
        return caught


def test_all_but_the_last_lose_their_traceback_and_their_causes() -> None:
    inner = raised(KeyError("deep"))
    in_group = raised(OSError("one of several"))
    causes = [raised(ValueError("why"), inner), ExceptionGroup("many", [in_group])]
    errors = [raised(RuntimeError(str(n)), causes[n % 2]) for n in range(5)]
    inner.__context__ = errors[0]  # a circle
    recent = RecentTracebacks(most=2)
    for error in errors:
        recent.keep(error)
    assert [it.__traceback__ is None for it in errors] == [True] * 3 + [False] * 2
    assert inner.__traceback__ is None
    assert in_group.__traceback__ is None
    assert [str(it) for it in errors] == list("01234")


def test_a_failed_run_that_is_asked_often_does_not_grow() -> None:
    run = Run("1", "p", (), {}, error=raised(ValueError("no")))
    lengths: list[int] = []
    for _ in range(3):
        with pytest.raises(ValueError, match="no") as caught:
            _ = run.outputs
        lengths.append(len(caught.traceback))
    assert len(set(lengths)) == 1
