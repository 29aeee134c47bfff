"""A worker's day with one key: what it leaves anywhere is searched for the key."""

import json
import traceback
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from dspex.providers import (
    Anthropic,
    Breaker,
    Cached,
    Limits,
    OpenAI,
    ProviderError,
    RateLimiter,
    RetryPolicy,
    SharedLimiter,
    SQLiteStore,
    telemetry,
)
from dspex.runtime import DspexError, open_node
from dspex.runtime.engine import Program, Step
from dspex.testing import (
    Action,
    Answer,
    Fail,
    ProviderRequest,
    Raw,
    RecordingLM,
    Reset,
    open_fake_provider,
)
from dspex.worker import run_spans
from dspex.worker.open_runtime import open_runtime

KEY = "sk-proj-4f1c9b7e2a"
ECHOED = {"x-request-id": f"req {KEY}", "x-echo": KEY}
PROGRAM = Program(
    name="zones", steps={"answer": Step(module="Predict", signature="town -> zone")}
)
FAILURES: list[Action] = [
    Fail(500, f"no route for {KEY}", headers=ECHOED),
    Raw(f"rubbish {KEY}".encode(), headers=ECHOED),
    Reset(),
    Fail(429, f"{KEY} asks too much", headers=ECHOED | {"retry-after": "0.01"}),
]


class Traces:
    """Spans and metrics of one test."""

    def __init__(self) -> None:
        self.spans = InMemorySpanExporter()
        self.tracing = TracerProvider()
        self.tracing.add_span_processor(SimpleSpanProcessor(self.spans))
        self.metrics = InMemoryMetricReader()
        self.metering = MeterProvider([self.metrics])

    def text(self) -> str:
        told = self.metrics.get_metrics_data()
        spans = "".join(span.to_json() for span in self.spans.get_finished_spans())
        return spans + ("" if told is None else told.to_json())


@pytest.fixture
def traces(monkeypatch: pytest.MonkeyPatch) -> Iterator[Traces]:
    traces = Traces()
    for module in (telemetry, run_spans):
        monkeypatch.setattr(module, "_tracer", traces.tracing.get_tracer("test"))
    instruments = telemetry.Instruments(traces.metering.get_meter("test"))
    monkeypatch.setattr(telemetry, "_instruments", instruments)
    yield traces
    traces.tracing.shutdown()
    traces.metering.shutdown()


@pytest.fixture
def logs() -> Iterator[list[str]]:
    """Every event of every level, as a host that shows local variables has it."""
    lines: list[str] = []

    class Lines:
        def msg(self, text: str) -> None:
            lines.append(text)

        debug = info = warning = error = critical = exception = msg

    structlog.configure(
        processors=[
            structlog.processors.ExceptionRenderer(
                structlog.tracebacks.ExceptionDictTransformer(show_locals=True)
            ),
            structlog.processors.JSONRenderer(default=repr),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(0),
        logger_factory=lambda *_: Lines(),
    )
    yield lines
    structlog.reset_defaults()


def everything_of(error: BaseException) -> str:
    tree = structlog.tracebacks.ExceptionDictTransformer(show_locals=True)
    shown = [str(error), repr(error), repr(vars(error))]
    shown += traceback.format_exception(error)
    return "".join(shown) + repr(tree((type(error), error, error.__traceback__)))


@pytest.mark.parametrize("provider", [OpenAI, Anthropic])
async def test_the_key_is_in_nothing_that_is_left_behind(
    tmp_path: Path,
    traces: Traces,
    logs: list[str],
    provider: type[OpenAI] | type[Anthropic],
) -> None:
    failures = iter(FAILURES)

    def act(request: ProviderRequest) -> Action:
        if "Town 7" in str(request.json) or "stream" in request.json:
            return next(failures, Answer(json.dumps({"zone": "A"}), headers=ECHOED))
        return Fail(401, f"Incorrect API key provided: {KEY}", headers=ECHOED)

    shown: dict[str, str] = {}
    store = SQLiteStore(tmp_path / "cache")
    async with open_fake_provider(act) as server, open_node() as node:
        await node.start(RateLimiter(Limits(concurrency=4)), name="key")
        async with provider(
            "m",
            api_key=KEY,
            base_url=server.url,
            retries=RetryPolicy(attempts=9, first_wait=0.01),
            limiter=SharedLimiter(node.registry, "key"),
        ) as lm:
            guarded = Breaker(lm, failures=99)
            recorded = RecordingLM(guarded, tmp_path / "cassette")
            cached = Cached(recorded, store)
            async with open_runtime(cached, store=tmp_path / "store") as runtime:
                run = await runtime.run(PROGRAM, town="Town 7")
                failed = await runtime.run(PROGRAM, town="Town 8")
                with pytest.raises(DspexError) as of_run:
                    failed.outputs  # noqa: B018 - it raises
                shown["error of a run"] = everything_of(of_run.value)
                rows = await runtime.journal.runs()
                shown["rows"] = repr([run, failed, run.to_json(), rows])
            async with guarded.stream("Town 7") as stream:
                shown["answer"] = repr(await stream.read())
            with pytest.raises(ProviderError) as caught:
                await lm.complete("Town 8")
            shown["error"] = everything_of(caught.value)
            for it in (lm, guarded, recorded, cached, runtime):
                shown[f"repr of {type(it).__name__}"] = repr(it) + repr(vars(it))
    store.close()
    sent = [repr(request.headers) for request in server.requests]
    shown |= {"log": "".join(logs), "traces": traces.text()}
    for path in tmp_path.iterdir():  # with the write-ahead logs
        name = path.name.partition("-")[0]
        shown[name] = shown.get(name, "") + path.read_bytes().decode("latin-1")

    assert [name for name, text in shown.items() if KEY in text] == []
    # The key was used, and what was searched is what there is.
    assert all(KEY in headers for headers in sent)
    assert len(sent) == 2 + len(FAILURES) + 2
    for name in ("cassette", "rows", "store"):
        assert "Town 7" in shown[name]
    assert '\\"A\\"' in shown["cassette"]
    assert "zone" in shown["cache"]
    assert "model_call_retried" in shown["log"]
    assert "[api key]" in shown["error"]
    assert "chat m" in shown["traces"]
    assert telemetry.DURATION in shown["traces"]
