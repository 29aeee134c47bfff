"""`dspex chaos`: a real worker, killed and harmed under load, and the report on it."""

import json
from pathlib import Path

import pytest

from dspex.testing import Fault, FaultTally, open_fake_provider
from dspex.testing.chaos import ChaosError, read_rows
from dspex.testing.chaos_load import Tally
from dspex.testing.chaos_report import ChaosReport, find_repeated
from dspex.testing.schema_values import value_of
from tests.integration.dspex_command import dspex, schema_answers

PROGRAM = """
name: triage
steps:
  classify: {module: Predict, signature: "ticket -> category"}
  answer: {module: Predict, signature: "ticket, category -> reply"}
"""
PLAN = """
seed: 3
faults:
- {kind: kill, on: process, target: "*chaos_worker*", after: 2.5, every: 2.5, until: 4}
- {kind: crash, actor: triage/*, probability: 0.1}
- {kind: slow, on: store, probability: 0.2, seconds: 0.02}
- {kind: crash, actor: "trigae/*"}
- {kind: fail, on: model, target: "openai:gtp"}
- {kind: kill, on: process, target: "no such command"}
- {kind: fail, on: model, status: 503, seconds: 0.1, nth: 3}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "programs").mkdir()
    (tmp_path / "programs" / "triage.yaml").write_text(PROGRAM)
    (tmp_path / "plan.yaml").write_text(PLAN)
    return tmp_path


async def test_a_killed_worker_keeps_what_it_promised_and_the_report_says_so(
    folder: Path,
) -> None:
    async with open_fake_provider(schema_answers(delay=0.02)) as provider:
        done = await dspex(
            "chaos", "--app", "programs", "--plan", "plan.yaml", "--minutes", "0.1",
            "--lm", "openai:fake", "--base-url", provider.url, "--clients", "4",
            cwd=folder, environment={"OPENAI_API_KEY": "none"},
        )  # fmt: skip
    report = json.loads((folder / "chaos.json").read_text())
    assert done.status == 0, done.out + done.err + json.dumps(report)
    assert "every invariant held, but 3 of 7 faults never struck" in done.out
    crash, fail, kill = sorted(report["never_struck"])
    assert crash.startswith("crash actor=trigae/*: never struck")
    assert "runs" in crash
    assert fail.endswith("there were: openai:fake")
    assert kill.startswith("kill on=process target=no such command")
    assert "python" in kill
    assert done.out.strip() in (folder / "chaos.txt").read_text()
    assert report["passed"] is True
    assert report["worker_exits"]["-9"] >= 1
    assert report["injected"]["kill process"] >= 1
    assert report["injected"]["crash actor"] >= 1
    assert report["injected"]["slow store"] >= 1
    assert report["accepted"] == sum(report["runs"].values()) > 0
    assert report["runs"]["succeeded"] > 0
    assert report["calls_answered"] > 0
    assert report["orphans"] == report["finished_calls_repeated"] == []


async def test_what_cannot_be_run_is_one_line_and_status_2(folder: Path) -> None:
    (folder / "bad.yaml").write_text("faults: [{kind: explode}]")
    (folder / "broken").mkdir()
    (folder / "broken" / "p.yaml").write_text("name: p")
    bad = await dspex("chaos", "--app", "programs", "--plan", "bad.yaml", cwd=folder)
    assert (bad.status, bad.err.count("\n")) == (2, 1)
    assert "'explode'" in bad.err
    lost = await dspex(
        "chaos", "--app", "programs", "--plan", "plan.yaml",
        "--report", "no/where.json", cwd=folder,
    )  # fmt: skip
    assert (lost.status, lost.out) == (2, "")
    assert "--report no/where.json: cannot write: No such file" in lost.err
    broken = await dspex(
        "chaos", "--app", "broken", "--plan", "plan.yaml", "--lm", "openai:x",
        cwd=folder, environment={"OPENAI_API_KEY": "none"},
    )  # fmt: skip
    assert broken.status == 2
    assert "the worker does not start" in broken.err
    assert "steps" in broken.err


def report_of(**statuses: str) -> ChaosReport:
    return ChaosReport(
        "app",
        "plan",
        1.0,
        Tally(statuses=statuses or {"r": "succeeded"}),
        last_status=0,
    )


def test_a_fault_that_no_worker_told_of_has_never_struck() -> None:
    report = report_of()
    told, silent = Fault("crash", nth=1), Fault("crash", nth=9)
    report.tallies = {told: FaultTally(told), silent: FaultTally(silent)}
    report.take_tally(told, {"struck": 2, "matched": 4, "others": ["runs.submit"]})
    report.take_tally(told, {"struck": 1, "matched": 9, "others": []})
    assert (report.tallies[told].struck, report.tallies[told].matched) == (2, 9)
    (missed,) = report.never_struck
    assert missed.startswith("crash nth=9: never struck")
    assert "every invariant held, but 1 of 2 faults never struck" in str(report)


def test_every_broken_invariant_is_a_breach() -> None:
    assert report_of().breaches == []
    assert report_of(a="failed", b="cancelled").breaches == []
    assert report_of(a="lost").breaches == ["1 accepted runs are lost"]
    assert report_of(a="running").breaches == ["1 accepted runs have not ended"]
    report = report_of()
    report.tally.unanswered.append("submit p k")
    report.repeated.append("fp")
    report.orphans.append("12 sleep")
    report.last_status = 1
    assert report.breaches == [
        "1 callers were never answered",
        "1 finished model calls were made again",
        "1 processes are left",
        "the worker ended with status 1",
    ]
    assert report.to_json()["passed"] is False
    report.tally.errors["r"] = "the model failed\n  To fix: wait"
    assert "error     1 x the model failed\n" in f"{report}\n"
    report.tally.statuses.clear()
    assert "no run was accepted" in str(report)


def test_a_call_that_began_after_its_answer_was_on_disk_is_a_repeated_one() -> None:
    calls = [
        {"fingerprint": "a", "began": 1.0},
        {"fingerprint": "a", "began": 3.0},
        {"fingerprint": "b", "began": 9.0},
    ]
    assert find_repeated(calls, {"a": 2.0}) == ["a"]


def test_inputs_are_made_by_their_schema() -> None:
    schema = {
        "type": "object",
        "$defs": {"Tone": {"enum": ["warm", "cold"]}},
        "properties": {
            "text": {"type": "string"},
            "count": {"type": "integer", "minimum": 5},
            "ratio": {"type": "number"},
            "is_new": {"type": "boolean"},
            "tone": {"$ref": "#/$defs/Tone"},
            "tags": {"type": "array", "items": {"type": "string"}},
            "note": {"anyOf": [{"type": "null"}, {"type": "string"}]},
        },
    }
    assert value_of(schema, number=3, text="sample 3") == {
        "text": "sample 3",
        "count": 5,
        "ratio": 3.0,
        "is_new": False,
        "tone": "cold",
        "tags": ["sample 3"],
        "note": None,
    }


def test_rows_of_inputs_are_checked(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"program": "p", "inputs": {"a": 1}}\n')
    assert read_rows(path) == [{"program": "p", "inputs": {"a": 1}}]
    for text, said in (("[]", "line 1 is not"), ("{", "not JSON")):
        path.write_text(text)
        with pytest.raises(ChaosError, match=said):
            read_rows(path)
    with pytest.raises(ChaosError, match="cannot read"):
        read_rows(tmp_path / "none")
