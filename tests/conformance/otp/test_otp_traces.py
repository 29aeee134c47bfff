"""dspex's supervisors against Erlang/OTP 25's own, scenario by scenario."""

import json
import logging
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
import structlog

from dspex.testing import otp

HERE = Path(__file__).parent
# `handwritten` and `random` are the project's oracle; `recorded` were made the same
# way, on Erlang/OTP 25 (stdlib 4.2), where it found dspex to differ once.
TRACES = list(
    otp.trace_files([HERE / "handwritten", HERE / "random", HERE / "recorded"])
)


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL)
    )
    yield
    structlog.reset_defaults()


def test_all_traces_are_here() -> None:
    assert len(TRACES) == 352 + 5


@cache
def checked(path: Path) -> otp.Outcome:
    return otp.check(json.loads(path.read_text()))


@pytest.mark.parametrize("path", TRACES, ids=lambda path: path.stem)
def test_trace_is_otps(path: Path) -> None:
    outcome = checked(path)
    assert outcome.status != "failed", outcome.difference


def test_only_the_known_deviation_is_skipped() -> None:
    quirks = [path.stem for path in TRACES if checked(path).status == "skipped"]
    assert quirks == ["restart_returns_ignore_dynamic"]


def test_a_difference_fails_and_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trace = json.loads((HERE / "handwritten" / "start_stop_order.json").read_text())
    trace["trace"]["steps"][0]["events"].reverse()
    wrong = tmp_path / "wrong.json"
    wrong.write_text(json.dumps(trace))
    assert otp.main([str(wrong), str(HERE / "handwritten" / "start_empty.json")]) == 1
    out = capsys.readouterr().out
    assert f"{wrong}: failed: step" in out
    assert "event 0: OTP" in out
    assert out.endswith("otp: 1 passed, 1 failed, 0 skipped\n")


def test_verbose_prints_both_traces(capsys: pytest.CaptureFixture[str]) -> None:
    path = HERE / "handwritten" / "start_empty.json"
    assert otp.main(["--verbose", str(path)]) == 0
    out = capsys.readouterr().out
    assert "  OTP   {" in out
    assert "  dspex {" in out


def test_a_path_that_is_not_there_is_an_error() -> None:
    with pytest.raises(SystemExit) as caught:
        otp.main(["/nowhere/at/all"])
    assert caught.value.code == 2
