"""`dspex compile` killed half-way, and a provider that refuses for a while."""

import json
import signal
from pathlib import Path

import trio

from dspex.modules import Predict
from dspex.modules.optimizers import BootstrapFewShot, Dataset, exact_match
from dspex.providers import OpenAI
from dspex.testing import Action, Answer, Fail, ProviderRequest, open_fake_provider
from dspex.worker.runs_command import open_journal
from tests.integration.dspex_command import dspex, eventually, start

PROGRAM = """
name: zones
steps:
  answer: {module: Predict, signature: "town -> zone"}
"""


def answer(request: ProviderRequest) -> Action:
    users = [m["content"] for m in request.json["messages"] if m["role"] == "user"]
    return Answer(
        json.dumps({"zone": users[-1].split("Town ")[1].split()[0]}), delay=0.1
    )


def write_rows(path: Path, first: int, last: int) -> Path:
    rows = [{"town": f"Town {i}", "zone": str(i)} for i in range(first, last)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def asked(requests: list[ProviderRequest]) -> list[str]:
    return [json.dumps(request.json["messages"]) for request in requests]


async def kept_calls(store: Path) -> int:
    async with open_journal(str(store)) as journal:
        rows = await journal.runs()
        return sum([len(await journal.effects(row.id)) for row in rows])


async def test_f3_the_compile_command_goes_on_after_sigkill(tmp_path: Path) -> None:
    program = tmp_path / "zones.yaml"
    program.write_text(PROGRAM)
    store = tmp_path / "runs.db"
    async with open_fake_provider(answer) as provider:
        command = (
            *("compile", program, "--trainset", write_rows(tmp_path / "t.jsonl", 0, 8)),
            *("--devset", write_rows(tmp_path / "d.jsonl", 50, 70), "--json"),
            *("--metric", "exact_match:zone", "--store", store, "--concurrency", "2"),
            *("--lm", "openai:fake", "--base-url", f"{provider.url}/v1"),
        )
        process = start(*command)
        assert await eventually(lambda: len(provider.requests) >= 12, seconds=30)
        process.send_signal(signal.SIGKILL)
        process.wait()
        before = asked(provider.requests)
        provider.requests.clear()
        kept = await kept_calls(store)
        done = await dspex(*command)
        assert done.status == 0, done.err
        after = asked(provider.requests)
    # Those under way at the kill were not finished: at most one a worker.
    assert len(before) - 2 <= kept <= len(before)
    assert len(set(before) & set(after)) == len(before) - kept
    facts = json.loads(done.out)
    assert facts["before"]["replayed"] == kept
    assert facts["before"]["score"] == facts["after"]["score"] == 100
    assert facts["version"] == "zones@2"


async def test_a_provider_that_refuses_for_a_while_costs_no_example() -> None:
    refused_until = trio.current_time() + 1.0

    def refuses(request: ProviderRequest) -> Action:
        if trio.current_time() < refused_until:
            return Fail(429, headers={"Retry-After": "0.2"})
        return answer(request)

    rows = [{"town": f"Town {i}", "zone": str(i)} for i in range(8)]
    train = Dataset.from_rows(rows, inputs=["town"])
    async with open_fake_provider(refuses) as provider:
        optimizer = BootstrapFewShot(metric=exact_match("zone"), concurrency=4)
        async with OpenAI("fake", base_url=f"{provider.url}/v1", api_key="k") as lm:
            made = await optimizer.compile(Predict("town -> zone"), train, lm=lm)
    assert (made.report.bootstrapped, made.report.errors) == (4, 0)
    assert trio.current_time() >= refused_until
