"""The cases made by the real dspy, through the public API.

`*_more.json` were made like the others, by dspy 3.4.1 with a scripted model.
"""

import json
from collections import Counter
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import structlog

from dspex.testing.dspy_cases.__main__ import main
from dspex.testing.dspy_cases.errors import CaseFileError
from dspex.testing.dspy_cases.outcome import Difference, Ran, Verdict, judge
from dspex.testing.dspy_cases.runner import load_deviations, run_files

CASES = Path(__file__).parent / "dspy"
FILES = sorted(path.name for path in CASES.glob("*.json"))


@pytest.fixture(autouse=True)
def _quiet() -> Any:
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
    yield
    structlog.reset_defaults()


@cache
def verdicts_on(name: str) -> list[Verdict]:
    return list(run_files([str(CASES / name)], load_deviations()))


@pytest.mark.parametrize("name", FILES)
def test_no_case_differs_from_dspy_unlisted(name: str) -> None:
    verdicts = verdicts_on(name)
    assert [v for v in verdicts if v.status == "failed"] == []
    assert len(verdicts) >= 24


def test_shared_cases_give_these_totals() -> None:
    names = ("bootstrap", "predict", "react", "signature")
    count = Counter(v.status for name in names for v in verdicts_on(f"{name}.json"))
    assert count == {"passed": 274, "deviated": 24}


def test_every_listed_deviation_is_there() -> None:
    used = {verdict.entry for name in FILES for verdict in verdicts_on(name)}
    assert used - {None} == set(load_deviations())


MORE = Difference("it differs", "reads more")
DIFFERENT = Ran("c1", ("tag",), MORE, ("loose-marker",))


@pytest.mark.parametrize(
    ("ran", "deviations", "status"),
    [
        (Ran("c1"), {}, "passed"),
        (DIFFERENT, {}, "failed"),
        (DIFFERENT, {"c1": "why"}, "deviated"),
        (DIFFERENT, {"tag": "why"}, "deviated"),
        (DIFFERENT, {"forgiven:loose-marker": "why"}, "deviated"),
        (DIFFERENT, {"forgiven:number-commas": "why"}, "failed"),
        # A listed difference that is gone is out of date.
        (Ran("c1", ("tag",)), {"c1": "why"}, "failed"),
        (Ran("c1", ("tag",)), {"tag": "why"}, "failed"),
        (Ran("c1", notes=("loose-marker",)), {"forgiven:loose-marker": "w"}, "passed"),
        # What was forgiven excuses reading more, not reading otherwise.
        (
            Ran("c1", (), Difference("it differs", "reads other"), ("loose-marker",)),
            {"forgiven:loose-marker": "why"},
            "failed",
        ),
    ],
)
def test_judgement(ran: Ran, deviations: Mapping[str, str], status: str) -> None:
    assert judge(ran, deviations).status == status


def test_command_ends_with_the_count(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = json.loads((CASES / "predict.json").read_text(encoding="utf-8"))
    data["cases"] = data["cases"][:3]
    data["cases"][0]["expected"]["outputs"] = {"answer": "London"}
    path = tmp_path / "cases.json"
    path.write_text(json.dumps(data), encoding="utf-8")
    assert main([str(path)]) == 1
    out = capsys.readouterr().out
    assert "failed p001: dspy gives {'answer': 'London'}, dspex" in out
    assert out.endswith("dspy: 2 passed, 0 deviated, 1 failed\n")
    deviations = tmp_path / "deviations.json"
    deviations.write_text('{"p001": "we prefer Paris"}', encoding="utf-8")
    assert main([str(path), "--deviations", str(deviations)]) == 0
    out = capsys.readouterr().out
    assert out == "dspy: 2 passed, 1 deviated, 0 failed\n"


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (None, "cannot be read"),
        ("{", "is no JSON"),
        ("[]", 'has no "kind"'),
        ('{"kind": "poems", "cases": []}', "cases of kind 'poems' are unknown"),
    ],
)
def test_bad_file_is_named(tmp_path: Path, content: str | None, problem: str) -> None:
    path = tmp_path / "bad.json"
    if content is not None:
        path.write_text(content, encoding="utf-8")
    with pytest.raises(CaseFileError, match=problem):
        run_files([str(path)], {})
    assert main([str(path)]) == 2
