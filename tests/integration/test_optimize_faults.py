"""`dspex compile` killed half-way, and a provider that refuses for a while."""

import json
import signal
from pathlib import Path

import pytest
import trio
import trio.testing

from dspex.modules import Predict
from dspex.modules.optimizers import (
    BootstrapFewShot,
    Dataset,
    Evaluate,
    exact_match,
)
from dspex.modules.optimizers.refusals import PATIENCE_SECONDS
from dspex.providers import (
    Limits,
    OpenAI,
    RateLimiter,
    RateLimitError,
    Request,
    SharedLimiter,
)
from dspex.runtime import open_node
from dspex.testing import (
    Action,
    Answer,
    Fail,
    ProviderRequest,
    ScriptedLM,
    open_fake_provider,
)
from dspex.worker.runs_command import open_journal
from tests.integration.dspex_command import dspex, eventually, start

CONCURRENCY = 4

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


@pytest.mark.parametrize(
    ("retry_after", "is_limited"), [(None, False), (7, False), (60, False), (60, True)]
)
async def test_f3_a_minute_of_429_changes_nothing_of_what_a_compile_finds(
    autojump_clock: trio.testing.MockClock, retry_after: int | None, is_limited: bool
) -> None:
    autojump_clock.autojump_threshold = 0.005  # the provider's sockets are real
    refused_until = 0.0
    refused = 0

    def refuses(request: ProviderRequest) -> Action:
        nonlocal refused
        if trio.current_time() >= refused_until:
            return answer(request)
        refused += 1
        headers = {} if retry_after is None else {"Retry-After": str(retry_after)}
        return Fail(429, headers=headers)

    rows = [{"town": f"Town {i}", "zone": str(i * (i % 3))} for i in range(12)]
    data = Dataset.from_rows(rows, inputs=["town"])
    optimizer = BootstrapFewShot(
        metric=exact_match("zone"), concurrency=CONCURRENCY, timeout=61, max_errors=1
    )
    evaluate = Evaluate(data, metric=exact_match("zone"), timeout=61, max_errors=1)
    student = Predict("town -> zone")
    async with (
        open_fake_provider(refuses) as provider,
        open_node() as node,
        OpenAI(
            "fake",
            base_url=f"{provider.url}/v1",
            api_key="k",
            limiter=SharedLimiter(node.registry, "key") if is_limited else None,
        ) as lm,
    ):
        await node.start(RateLimiter(Limits()), name="key")
        usual = await optimizer.compile(student, data, lm=lm)
        score = (await evaluate(usual.program, lm=lm)).score
        began = trio.current_time()
        refused_until = began + 60
        through = await optimizer.compile(student, data, lm=lm)
        refused_until = trio.current_time() + 60
        evaluation = await evaluate(through.program, lm=lm)
    assert through.report.demos == usual.report.demos
    assert through.report.errors == 0
    assert 60 <= through.report.seconds < 100
    assert (evaluation.score, evaluation.errors) == (score, 0)
    # Who is told when to come back does not come before.
    if retry_after == 60:
        assert refused <= CONCURRENCY + 8


async def test_a_provider_that_refuses_without_end_fails_the_examples(
    autojump_clock: trio.testing.MockClock,
) -> None:
    def refuses(_: Request) -> Exception:
        return RateLimitError("no more", provider="scripted", retry_after=20)

    data = Dataset.from_rows([{"town": "a", "zone": "b"}], inputs=["town"])
    evaluate = Evaluate(data, metric=exact_match("zone"), timeout=30)
    evaluation = await evaluate(Predict("town -> zone"), lm=ScriptedLM(refuses))
    assert isinstance(evaluation.outcomes[0].error, RateLimitError)
    assert PATIENCE_SECONDS - 50 < trio.current_time() <= PATIENCE_SECONDS
