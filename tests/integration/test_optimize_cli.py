"""`dspex eval` and `dspex compile`, as a user sees them."""

import json
from pathlib import Path
from typing import Any, TypeAlias

import pytest

from dspex.runtime.engine import Program
from dspex.testing import (
    Action,
    Answer,
    FakeProvider,
    ProviderRequest,
    open_fake_provider,
)
from tests.integration.dspex_command import dspex

Arguments: TypeAlias = tuple[str | Path, ...]

PROGRAM = """
name: zones
steps:
  recall:
    module: ChainOfThought
    signature: "town -> fact"
  answer:
    module: Predict
    signature: "town, fact -> zone"
outputs: {zone: answer.zone}
"""


def answer(request: ProviderRequest) -> Action:
    """Knows the zone of every third town, and of all once there are demos."""
    messages = request.json["messages"]
    users = [it["content"] for it in messages if it["role"] == "user"]
    number = int(users[-1].split("\n")[1].split()[1])
    schema = request.json["response_format"]["json_schema"]["schema"]
    if "fact" in schema["properties"]:
        return Answer(json.dumps({"reasoning": "I know.", "fact": f"fact {number}"}))
    knows = number % 3 == 0 or len(users) > 1
    return Answer(json.dumps({"zone": str(number % 7) if knows else "unknown"}))


def write_rows(path: Path, first: int, last: int) -> Path:
    rows = [{"town": f"Town {i}", "zone": str(i % 7)} for i in range(first, last)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    program = tmp_path / "zones.yaml"
    program.write_text(PROGRAM)
    return {
        "program": program,
        "train": write_rows(tmp_path / "train.jsonl", 0, 20),
        "dev": write_rows(tmp_path / "dev.jsonl", 100, 130),
        "store": tmp_path / "runs.db",
    }


def model(provider: FakeProvider) -> tuple[str, ...]:
    return ("--lm", "openai:fake", "--base-url", f"{provider.url}/v1")


async def test_eval_prints_score_interval_and_worst_and_writes_outcomes(
    files: dict[str, Path], tmp_path: Path
) -> None:
    async with open_fake_provider(answer) as provider:
        base: Arguments = (
            "eval",
            files["program"],
            "--devset",
            files["dev"],
            *model(provider),
        )
        metric = ("--metric", "exact_match:zone")
        out = tmp_path / "out.csv"
        done = await dspex(*base, *metric, "--out", out, "--worst", "2")
        assert done.status == 0, done.err
        assert "33.3 (95 % CI 19.2 to 51.2) on 30 examples" in done.out
        assert "town=Town 100" in done.out
        assert "60 calls" in done.out
        lines = out.read_text().splitlines()
        assert len(lines) == 31
        assert lines[1].startswith("0,scored,0.0,")
        wrong = await dspex(*base, "--metric", "exactly:zone")
    assert wrong.status == 2
    assert "--metric 'exactly:zone': there is no module 'exactly'" in wrong.err


async def test_compile_keeps_a_version_with_its_parent_scores_and_sources(
    files: dict[str, Path],
) -> None:
    async with open_fake_provider(answer) as provider:
        command: Arguments = (
            *("compile", files["program"], "--trainset", files["train"]),
            *("--devset", files["dev"], "--metric", "exact_match:zone"),
            *("--max-labeled-demos", "0", "--store", files["store"]),
            *("--budget-usd", "5", "--price", "1,2"),
            *model(provider),
        )
        first = await dspex(*command)
        assert first.status == 0, first.err
        assert "better by 66.7 points" in first.out
        assert "demos of steps['answer'], by training example: 0, 3, 6, 9" in first.out
        assert "+  - town: Town 9" in first.out.replace("+    ", "+  ")
        assert "kept as zones@2" in first.out
        asked = len(provider.requests)
        # The same command again is answered from the store.
        again = await dspex(*command, "--json")
        assert again.status == 0, again.err
        assert len(provider.requests) == asked
        facts: dict[str, Any] = json.loads(again.out)
        assert facts["version"] == "zones@2"
        assert facts["after"]["replayed"] == 60
    listed = await dspex("programs", "list", "--json", "--store", files["store"])
    (parent, child) = listed.rows
    assert (child["parent"], parent["made_by"]) == (1, "file")
    assert child["made_by"].startswith("BootstrapFewShot, run ")
    assert child["scores"] == {"before": pytest.approx(100 / 3), "after": 100}
    exported = await dspex("programs", "export", "zones@2", "--store", files["store"])
    program = Program.model_validate_json(exported.out)
    assert [demo["town"] for demo in program.steps["answer"].demos] == [
        "Town 0",
        "Town 3",
        "Town 6",
        "Town 9",
    ]
    assert set(program.steps["recall"].demos[0]) == {"town", "reasoning", "fact"}
    run = child["made_by"].split()[-1]
    shown = await dspex("runs", "show", run, "--json", "--store", files["store"])
    assert shown.status == 0, shown.err
    assert '"example": 9' in shown.out or '"example":9' in shown.out


async def test_compiled_program_runs_and_a_used_up_budget_keeps_what_was_found(
    files: dict[str, Path], tmp_path: Path
) -> None:
    saved = tmp_path / "better.json"
    async with open_fake_provider(answer) as provider:
        command: Arguments = (
            *("compile", files["program"], "--trainset", files["train"]),
            *("--metric", "exact_match:zone", "--save", saved, "--concurrency", "1"),
            *("--max-labeled-demos", "0", "--price", "1000,1000", "--json"),
            *("--store", files["store"]),
            *model(provider),
        )
        done = await dspex(*command, "--budget-usd", "0.2")
        assert done.status == 1, done.err
        cut: dict[str, Any] = json.loads(done.out)
        assert "budget" in cut["stopped"]
        # Within a call of what was allowed.
        assert 0.2 <= cut["cost_usd"] < 0.3
        demos = Program.load(saved).steps["answer"].demos
        assert 1 <= len(demos) < 4
        ran = await dspex("run", saved, "-i", "town=Town 5", "--json", *model(provider))
        exported = await dspex("programs", "export", cut["version"], *command[-6:-4])
        assert Program.model_validate_json(exported.out).steps["answer"].demos == demos
        # A larger budget goes on from there: what was paid counts, and is not repeated.
        whole = await dspex(*command, "--budget-usd", "20")
        asked = [request.body for request in provider.requests]
        assert len(asked) == len(set(asked))
        facts: dict[str, Any] = json.loads(whole.out)
        assert facts["run"] == cut["run"]
        assert facts["report"]["replayed"] == cut["report"]["calls"]
        assert facts["report"]["bootstrapped"] == 4
    assert ran.status == 0, ran.err
    assert ran.rows[0]["outputs"] == {"zone": "5"}


def told(request: ProviderRequest) -> Action:
    """Knows every zone, but says it as a number only where it is told to."""
    system, *_, user = [it["content"] for it in request.json["messages"]]
    fields = request.json["response_format"]["json_schema"]["schema"]["properties"]
    if "zone" not in fields:
        return Answer(json.dumps(dict.fromkeys(fields, "ONE DIGIT")))
    number = int(user.split("Town ")[1].split()[0])
    zone = str(number % 7) if "ONE DIGIT" in system else "a zone"
    return Answer(json.dumps({"zone": zone}))


async def test_compile_runs_an_optimizer_of_dspy_and_goes_on_when_the_budget_is_larger(
    files: dict[str, Path], tmp_path: Path
) -> None:
    saved = tmp_path / "better.json"
    files["program"].write_text(
        "name: one\nsteps:\n  answer: {module: Predict, signature: town -> zone}\n"
    )
    settings = {
        "auto": None,
        "num_candidates": 2,
        "max_bootstrapped_demos": 0,
        "max_labeled_demos": 0,
        "seed": 1,
    }
    async with open_fake_provider(told) as provider:
        command: Arguments = (
            *("compile", files["program"], "--trainset", files["train"], "--json"),
            *("--metric", "exact_match:zone", "--optimizer", "dspy.MIPROv2"),
            *("--settings", json.dumps(settings), "--store", files["store"]),
            *("--compile-settings", '{"num_trials": 2, "minibatch": false}'),
            *("--devset", files["dev"], "--price", "1000,1000", "--save", saved),
            *model(provider),
        )
        short = await dspex(*command, "--budget-usd", "1")
        assert short.status == 1, short.err
        stopped: dict[str, Any] = json.loads(short.out)
        assert "budget" in stopped["stopped"]
        assert Program.load(saved) == Program.load(files["program"])
        paid = len(provider.requests)
        done = await dspex(*command, "--budget-usd", "1000")
    assert done.status == 0, done.err
    facts: dict[str, Any] = json.loads(done.out)
    assert (facts["before"]["score"], facts["after"]["score"]) == (0, 100)
    assert facts["before"]["replayed"] == 30
    assert facts["report"]["replayed"] > 0
    assert facts["is_significant"]
    assert facts["run"] == stopped["run"]
    asked = [request.body for request in provider.requests]
    assert len(asked) > paid
    assert Program.load(saved).steps["answer"].instructions == "ONE DIGIT"


async def test_a_stored_version_is_evaluated_and_compiled_again(
    files: dict[str, Path],
) -> None:
    store = ("--store", files["store"])
    metric = ("--metric", "exact_match:zone")
    await dspex("programs", "import", files["program"], *store)
    async with open_fake_provider(answer) as provider:
        base: Arguments = (*metric, *store, *model(provider))
        train = ("--trainset", files["train"], "--max-labeled-demos", "0")
        first = await dspex("compile", "zones@1", *train, *base)
        assert "kept as zones@2" in first.out, first.err
        scored = await dspex("eval", "zones@2", "--devset", files["dev"], *base)
    assert scored.status == 0, scored.err
    assert scored.out.startswith("100.0")
    listed = await dspex("programs", "list", "--json", *store)
    found = [(it["version"], it["parent"]) for it in listed.rows]
    assert found == [(1, None), (2, 1)]


async def test_compile_takes_code_and_refuses_leakage(
    files: dict[str, Path], tmp_path: Path
) -> None:
    (tmp_path / "my_code.py").write_text(
        "from dspex.modules import Predict\n"
        "def make():\n    return Predict('town -> zone', adapter='json')\n"
        "def right(example, prediction):\n"
        "    return example.zone == prediction.zone\n"
    )
    base: Arguments = ("compile", "my_code:make", "--trainset", files["train"])
    metric = ("--metric", "my_code:right", "--inputs", "town")
    save = ("--save", tmp_path / "state.json")
    async with open_fake_provider(answer) as provider:
        done = await dspex(*base, *metric, *save, *model(provider), cwd=tmp_path)
        assert done.status == 0, done.err
        leak = await dspex(
            *base,
            *metric,
            *save,
            "--devset",
            files["train"],
            *model(provider),
            cwd=tmp_path,
        )
    state = json.loads((tmp_path / "state.json").read_text())
    assert len(state["demos"]) == 16
    assert leak.status == 2
    assert "is in the training set too" in leak.err
    nowhere = await dspex(*base, *metric, *model(provider), cwd=tmp_path)
    assert "nowhere to keep the result" in nowhere.err


@pytest.mark.parametrize(
    ("metric", "problem"),
    [
        ("exact_match:zon", "program 'zones' has no output 'zon'; it has zone"),
        ("exact_mach:zone", "there is no module 'exact_mach'; give answer_in_text"),
    ],
)
async def test_a_metric_that_cannot_be_is_refused_before_a_model_is_asked(
    files: dict[str, Path], metric: str, problem: str
) -> None:
    async with open_fake_provider(answer) as provider:
        ended = await dspex(
            "eval",
            files["program"],
            *("--devset", files["dev"], "--metric", metric),
            *model(provider),
        )
    assert ended.status == 2
    assert problem in " ".join(ended.err.split())
    assert not provider.requests
