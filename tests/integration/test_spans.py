from collections.abc import AsyncGenerator, Iterator

import pytest
from opentelemetry import trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import HistogramDataPoint, InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode

from dspex.providers import (
    AuthenticationError,
    Message,
    OpenAI,
    Request,
    RetryPolicy,
    Usage,
    telemetry,
)
from dspex.testing import Answer, Fail, FakeProvider, open_fake_provider

SECRETS = ("sk-secret", "What is it?", "It is this.")


@pytest.fixture
async def server() -> AsyncGenerator[FakeProvider]:
    async with open_fake_provider() as server:
        yield server


@pytest.fixture
def spans(monkeypatch: pytest.MonkeyPatch) -> Iterator[InMemorySpanExporter]:
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(telemetry, "_tracer", provider.get_tracer("test"))
    yield exporter
    provider.shutdown()


def client(server: FakeProvider) -> OpenAI:
    return OpenAI(
        "gpt-4o-mini",
        api_key="sk-secret",
        base_url=server.url,
        retries=RetryPolicy(first_wait=0.01),
    )


def only(spans: InMemorySpanExporter) -> ReadableSpan:
    (span,) = spans.get_finished_spans()
    assert not any(secret in span.to_json() for secret in SECRETS)
    return span


@pytest.mark.parametrize("streaming", [False, True], ids=["whole", "streamed"])
async def test_a_call_is_a_span_with_its_usage_and_cost(
    server: FakeProvider, spans: InMemorySpanExporter, streaming: bool
) -> None:
    server.plan(
        [Fail(500), Answer("It is this.", usage=Usage(1_000_000, 1_000_000, 0, 7))]
    )
    request = Request((Message.user("What is it?"),), temperature=0.5, max_tokens=9)
    async with client(server) as lm:
        if streaming:
            async with lm.stream(request) as stream:
                await stream.read()
        else:
            await lm.complete(request)
    span = only(spans)
    attributes = dict(span.attributes or {})
    assert span.name == "chat gpt-4o-mini"
    assert [event.name for event in span.events] == ["attempt_failed"]
    assert (
        attributes.pop("gen_ai.response.time_to_first_chunk", None) is not None
    ) is (streaming)
    assert attributes.pop("server.port") == int(server.url.split(":")[2][:-3])
    assert attributes.pop("dspex.usage.cost_usd") == pytest.approx(0.75)
    assert attributes == {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "openai",
        "gen_ai.output.type": "text",
        "gen_ai.request.model": "gpt-4o-mini",
        "gen_ai.request.temperature": 0.5,
        "gen_ai.request.max_tokens": 9,
        "gen_ai.response.model": "gpt-4o-mini",
        "gen_ai.response.id": "chatcmpl-1",
        "gen_ai.response.finish_reasons": ("stop",),
        "gen_ai.usage.input_tokens": 1_000_000,
        "gen_ai.usage.output_tokens": 1_000_000,
        "gen_ai.usage.cache_read.input_tokens": 0,
        "gen_ai.usage.reasoning.output_tokens": 7,
        "server.address": "127.0.0.1",
    }


async def test_a_failure_is_told_in_the_span(
    server: FakeProvider, spans: InMemorySpanExporter
) -> None:
    server.plan([Fail(401, message="bad key sk-secret")])
    async with client(server) as lm:
        with pytest.raises(AuthenticationError):
            await lm.complete("What is it?")
    span = only(spans)
    assert span.status.status_code is StatusCode.ERROR
    assert (span.attributes or {})["error.type"] == "AuthenticationError"


async def test_what_runs_inside_a_call_is_below_its_span(
    server: FakeProvider, spans: InMemorySpanExporter
) -> None:
    async with client(server) as lm, lm.stream("x") as stream:
        assert trace.get_current_span().get_span_context().is_valid
        await stream.read()
    assert not trace.get_current_span().get_span_context().is_valid


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> Iterator[InMemoryMetricReader]:
    reader = InMemoryMetricReader()
    provider = MeterProvider([reader])
    instruments = telemetry.Instruments(provider.get_meter("test"))
    monkeypatch.setattr(telemetry, "_instruments", instruments)
    yield reader
    provider.shutdown()


def points(reader: InMemoryMetricReader) -> dict[tuple[str, str], tuple[int, float]]:
    """Count and sum, by metric and by kind of token or error."""
    found: dict[tuple[str, str], tuple[int, float]] = {}
    data = reader.get_metrics_data()
    assert data is not None
    for metric in data.resource_metrics[0].scope_metrics[0].metrics:
        for point in metric.data.data_points:
            assert isinstance(point, HistogramDataPoint)
            facts = dict(point.attributes or {})
            assert facts["gen_ai.operation.name"] == "chat"
            assert facts["gen_ai.provider.name"] == "openai"
            assert facts["gen_ai.request.model"] == "gpt-4o-mini"
            assert facts["server.address"] == "127.0.0.1"
            kind = facts.get("gen_ai.token.type") or facts.get("error.type") or ""
            found[metric.name, str(kind)] = (point.count, point.sum)
    return found


async def test_tokens_and_seconds_are_measured(
    server: FakeProvider, measured: InMemoryMetricReader
) -> None:
    server.plan(
        [Answer(usage=Usage(10, 3)), Answer(usage=Usage(20, 4)), Fail(401), Fail(401)]
    )
    async with client(server) as lm:
        await lm.complete("x")
        async with lm.stream("x") as stream:
            await stream.read()
        with pytest.raises(AuthenticationError):
            await lm.complete("x")
        with pytest.raises(AuthenticationError):
            async with lm.stream("x"):
                pass
    found = points(measured)
    seconds = "gen_ai.client.operation.duration"
    assert found["gen_ai.client.token.usage", "input"] == (2, 30)
    assert found["gen_ai.client.token.usage", "output"] == (2, 7)
    assert found[seconds, ""][0] == 2
    assert 0 < found[seconds, ""][1] < 5
    assert found[seconds, "AuthenticationError"][0] == 2
    assert len(found) == 4
