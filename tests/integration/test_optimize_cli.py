"""`dspex eval` and `dspex compile`, as a user sees them."""

import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeAlias

import pytest
import structlog

from dspex.runtime import DspexError
from dspex.runtime.engine import Program
from dspex.testing import (
    Action,
    Answer,
    FakeProvider,
    ProviderRequest,
    open_fake_provider,
)
from dspex.worker import optimize_cli
from dspex.worker.cli import app
from dspex.worker.programs_command import import_program
from dspex.worker.runs_command import open_journal
from tests.integration.dspex_command import Finished, dspex

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


Command: TypeAlias = Callable[..., Awaitable[Finished]]


@pytest.fixture
def here(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Command:
    """Run a command as `dspex` does, without the second that a process takes."""

    async def run(*arguments: str | Path) -> Finished:
        mains: list[Callable[[], Awaitable[int]]] = []

        def execute(main: Callable[[], Awaitable[int]], **_: object) -> None:
            mains.append(main)

        monkeypatch.setattr(optimize_cli, "execute", execute)
        app([str(it) for it in arguments], standalone_mode=False)
        capsys.readouterr()
        try:
            status, problem = await mains[0](), ""
        except DspexError as error:
            status, problem = 2, str(error)
        told = capsys.readouterr()
        return Finished(status, told.out, told.err + problem)

    # As in a process of its own: after `capture_logs` of a test logs go to stdout.
    structlog.reset_defaults()
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    return run


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


MEETING = """
import pathlib, time
def meet(town):
    folder = pathlib.Path("met")
    (folder / town).touch()
    while len(list(folder.iterdir())) < 6:
        time.sleep(0.01)
    return {"zone": town}
"""


async def test_eval_has_as_many_processes_for_its_examples_as_it_is_told(
    tmp_path: Path, here: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "meeting.py").write_text(MEETING)
    (tmp_path / "met").mkdir()
    (tmp_path / "program.yaml").write_text(
        "name: meet\nsteps:\n  a: {module: 'meeting:meet', backend: python, "
        "signature: 'town -> zone'}\n"
    )
    rows = [json.dumps({"town": f"t{i}", "zone": f"t{i}"}) for i in range(6)]
    (tmp_path / "dev.jsonl").write_text("\n".join(rows))
    monkeypatch.chdir(tmp_path)
    done = await here(
        *("eval", "program.yaml", "--devset", "dev.jsonl", "--timeout", "30"),
        *("--metric", "exact_match:zone", "--concurrency", "6", "--pool-max", "6"),
        *("--lm", "openai:fake", "--base-url", "http://127.0.0.1:1/v1"),
    )
    assert done.status == 0, done.err
    assert "100.0" in done.out


async def test_compile_keeps_a_version_with_its_parent_scores_and_sources(
    files: dict[str, Path], here: Command
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
        again = await here(*command, "--json")
        assert again.status == 0, again.err
        assert len(provider.requests) == asked
        facts: dict[str, Any] = json.loads(again.out)
        assert facts["version"] == "zones@2"
        assert facts["after"]["replayed"] == 60
        assert facts["run"] in first.out
    async with open_journal(str(files["store"])) as journal:
        (parent, child) = await journal.programs()
        run = await journal.run(facts["run"])
    assert (child.version, child.parent, parent.made_by) == (2, 1, "file")
    assert child.made_by == f"BootstrapFewShot, run {run.id}"
    assert child.scores == {"before": pytest.approx(100 / 3), "after": 100}
    program = Program.model_validate(child.body)
    assert [demo["town"] for demo in program.steps["answer"].demos] == [
        "Town 0",
        "Town 3",
        "Town 6",
        "Town 9",
    ]
    assert set(program.steps["recall"].demos[0]) == {"town", "reasoning", "fact"}
    sources = run.outputs["demos"]["steps['answer']"]
    assert [it["example"] for it in sources] == [0, 3, 6, 9]


async def test_compiled_program_runs_and_a_used_up_budget_keeps_what_was_found(
    files: dict[str, Path], tmp_path: Path, here: Command
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
        done = await here(*command, "--budget-usd", "0.2")
        assert done.status == 1, done.err
        cut: dict[str, Any] = json.loads(done.out)
        assert "budget" in cut["stopped"]
        # Within a call of what was allowed.
        assert 0.2 <= cut["cost_usd"] < 0.3
        demos = Program.load(saved).steps["answer"].demos
        assert 1 <= len(demos) < 4
        ran = await dspex("run", saved, "-i", "town=Town 5", "--json", *model(provider))
        async with open_journal(str(files["store"])) as journal:
            kept = Program.model_validate((await journal.program("zones")).body)
        assert cut["version"] == "zones@2"
        assert kept == Program.load(saved)
        # A larger budget goes on from there: what was paid counts, and is not repeated.
        whole = await here(*command, "--budget-usd", "20")
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
    files: dict[str, Path], tmp_path: Path, here: Command
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
        short = await here(*command, "--budget-usd", "1")
        assert short.status == 1, short.err
        stopped: dict[str, Any] = json.loads(short.out)
        assert "budget" in stopped["stopped"]
        assert Program.load(saved) == Program.load(files["program"])
        paid = len(provider.requests)
        done = await here(*command, "--budget-usd", "1000")
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
    files: dict[str, Path], here: Command
) -> None:
    store = ("--store", files["store"])
    metric = ("--metric", "exact_match:zone")
    await import_program(str(files["store"]), files["program"], made_by="test")
    async with open_fake_provider(answer) as provider:
        base: Arguments = (*metric, *store, *model(provider))
        train = ("--trainset", files["train"], "--max-labeled-demos", "0")
        first = await here("compile", "zones@1", *train, *base)
        assert "kept as zones@2" in first.out, first.err
        scored = await here("eval", "zones@2", "--devset", files["dev"], *base)
    assert scored.status == 0, scored.err
    assert scored.out.startswith("100.0")
    async with open_journal(str(files["store"])) as journal:
        found = [(it.version, it.parent) for it in await journal.programs()]
    assert found == [(1, None), (2, 1)]


async def test_compile_takes_code_and_refuses_leakage(
    files: dict[str, Path], tmp_path: Path, here: Command
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
    gone = await here(*base, *metric, "--save", tmp_path / "no" / "state.json")
    assert gone.err.endswith(f"there is no folder {tmp_path / 'no'}")
    folder = await here(*base, *metric, "--save", tmp_path)
    assert folder.err.endswith("is a folder: give a file in it")
    nowhere = await here(*base, *metric, *model(provider))
    assert "nowhere to keep the result" in nowhere.err


@pytest.mark.parametrize(
    ("metric", "problem"),
    [
        ("exact_match:zon", "program 'zones' has no output 'zon'; it has zone"),
        ("exact_mach:zone", "there is no module 'exact_mach'; give answer_in_text"),
    ],
)
async def test_a_metric_that_cannot_be_is_refused_before_a_model_is_asked(
    files: dict[str, Path], here: Command, metric: str, problem: str
) -> None:
    async with open_fake_provider(answer) as provider:
        ended = await here(
            "eval",
            files["program"],
            *("--devset", files["dev"], "--metric", metric),
            *model(provider),
        )
    assert ended.status == 2
    assert problem in " ".join(ended.err.split())
    assert not provider.requests
