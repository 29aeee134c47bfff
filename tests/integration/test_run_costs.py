"""What runs cost: in their steps, in all, on the command line; and forgetting them."""

import json
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from dspex.modules import Module, Predict
from dspex.providers import Request, Usage
from dspex.providers.messages import Choice, Response
from dspex.providers.prices import response_cost
from dspex.runtime.engine import Program, Run, Step, StepOptions
from dspex.testing import ScriptedLM
from dspex.worker.open_runtime import open_runtime
from tests.integration.dspex_command import dspex

MODEL = "openai:gpt-4o-mini"
USAGE = Usage(input_tokens=1_000, output_tokens=100)
CALL = 1_000 * 0.15e-6 + 100 * 0.6e-6

TWO = Program(
    name="two",
    steps={
        "first": Step(module="Predict", signature="ticket -> summary"),
        "second": Step(module="Predict", signature="summary -> reply"),
    },
)


def priced(name: str = MODEL) -> ScriptedLM:
    def rule(request: Request) -> Response:
        assert request.output_schema is not None
        fields: Any = request.output_schema.schema["properties"]
        text = json.dumps(dict.fromkeys(fields, "x"))
        return Response((Choice(text),), USAGE, "gpt-4o-mini-2024-07-18")

    return ScriptedLM(rule, name=name)


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "runs.db"


async def test_a_run_costs_what_its_steps_cost() -> None:
    async with open_runtime(priced()) as rt:
        run = await rt.run(TWO, ticket="help")
    assert [step.cost_usd for step in run.steps] == pytest.approx([CALL, CALL])
    assert run.cost_usd == pytest.approx(2 * CALL)
    assert run.to_json()["cost_usd"] == run.cost_usd


async def test_a_price_that_is_not_known_makes_the_cost_unknown() -> None:
    async with open_runtime(priced("openai:of-our-own")) as rt:
        run = await rt.run(TWO, ticket="help")
    assert [step.cost_usd for step in run.steps] == [None, None]
    assert run.cost_usd is None


def test_what_a_fallback_answered_has_the_price_of_who_answered() -> None:
    answered = Response((Choice("x"),), USAGE, "gpt-4o-mini-2024-07-18")
    both = "anthropic:claude-opus-4-5|openai:gpt-4o|openai:gpt-4o-mini"
    assert response_cost(both, answered) == pytest.approx(CALL)
    assert response_cost("anthropic:claude-opus-4-5|openai:o3", answered) is None


class FailsOnce(Module):
    """A program as code that fails after its first call, the first time."""

    failed = False

    def __init__(self) -> None:
        self.ask = Predict("ticket -> reply")

    async def forward(self, ticket: str) -> dict[str, object]:
        reply = (await self.ask(ticket=ticket)).reply
        if not FailsOnce.failed:
            FailsOnce.failed = True
            raise ValueError("after the call was paid for")
        return {"reply": reply}


async def test_an_attempt_that_failed_was_paid_for_all_the_same(store: Path) -> None:
    FailsOnce.failed = False
    step = Step(
        module="FailsOnce",
        signature="ticket -> reply",
        options=StepOptions(retries=1),
    )
    program = Program(name="again", steps={"main": step})
    modules = {"FailsOnce": FailsOnce}
    async with open_runtime(priced(), store=store, modules=modules) as rt:
        run = await rt.run(program, ticket="help")
    assert run.status == "succeeded"
    assert run.cost_usd == pytest.approx(2 * CALL)


async def ended_run(store: Path) -> Run:
    async with open_runtime(priced(), store=store) as rt:
        return await rt.run(TWO, ticket="help")


async def test_a_resumed_run_tells_the_cost_of_both_processes(store: Path) -> None:
    run = await ended_run(store)
    with closing(sqlite3.connect(store)) as connection, connection:
        # As a process leaves it that dies before the run's end is on disk.
        connection.execute(
            "UPDATE run SET state = 'pending', owner = NULL, steps = NULL, "
            "outputs = NULL, finished_at = NULL"
        )
        connection.execute("DELETE FROM effect WHERE path = 'second'")
    lm = priced()
    async with open_runtime(lm, store=store) as rt:
        again = await rt.result(run.id, timeout=10)
    assert len(lm.requests) == 1
    assert [(it.live, it.journaled) for it in again.steps] == [(0, 1), (1, 0)]
    assert again.cost_usd == pytest.approx(2 * CALL)


async def test_runs_are_shown_and_exported_with_their_cost(store: Path) -> None:
    run = await ended_run(store)
    shown = await dspex("runs", "show", run.id[:8], "--store", store)
    assert f"succeeded  ${2 * CALL:.6f}" in shown.out, shown.err
    assert shown.out.count(f"${CALL:.6f}") == 4  # two steps, a call each
    exported = await dspex("runs", "export", run.id[:8], "--store", store)
    assert exported.status == 0, exported.err
    (row,) = exported.rows
    assert row["id"] == run.id
    assert row["cost_usd"] == pytest.approx(2 * CALL)
    assert [it["cost_usd"] for it in row["steps"]] == pytest.approx([CALL, CALL])
    effects = [(it["path"], it["usage"]["cost_usd"]) for it in row["effects"]]
    assert effects == [("first", pytest.approx(CALL)), ("second", pytest.approx(CALL))]
    assert row["outputs"] == {"summary": "x", "reply": "x"}
    assert row["events"][0]["kind"] == "accepted"


async def test_pruning_forgets_runs_older_than_an_age(store: Path) -> None:
    old, new = await ended_run(store), await ended_run(store)
    with closing(sqlite3.connect(store)) as connection, connection:
        connection.execute(
            "UPDATE run SET accepted_at = accepted_at - :age,"
            " finished_at = finished_at - :age WHERE id = :id",
            {"age": 31 * 86_400, "id": old.id},
        )
    prune = ("runs", "prune", "--store", store, "--older-than")
    assert (await dspex(*prune, "30d")).out == "pruned 1 runs\n"
    left = await dspex("runs", "export", "--store", store)
    assert [(row["id"], len(row["effects"])) for row in left.rows] == [(new.id, 2)]
    bad = await dspex(*prune, "30 days")
    assert bad.status == 2
    assert "write 90s, 15m, 12h or 30d" in bad.err
