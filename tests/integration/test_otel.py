"""`dspex worker` sends its spans and metrics where the standard environment says."""

import json
from collections.abc import Generator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

pytest.importorskip("starlette")
pytest.importorskip("hypercorn")
pytest.importorskip("opentelemetry.exporter.otlp.proto.http")

from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
)
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from dspex.testing import Fail, ProviderRequest, open_fake_provider
from dspex.testing.fake_actions import Action
from tests.integration.dspex_command import dspex, schema_answers
from tests.integration.http_client import ask
from tests.integration.worker_process import INPUTS, RUNS, open_process

TRACE = "0af7651916cd43dd8448eb211c80319c"
PARENT = "b7ad6b7169203331"


@contextmanager
def open_receiver() -> Generator[tuple[str, list[tuple[str, bytes]]]]:
    """Give the address of an OTLP receiver, and what it got: paths and bodies."""
    got: list[tuple[str, bytes]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            got.append((self.path, body))
            self.send_response(200)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", got
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.mark.parametrize("store", [[], ["--store", "runs.db"]])
async def test_a_run_is_a_span_of_its_callers_trace_with_steps_and_calls_below(
    tmp_path: Path, store: list[str]
) -> None:
    store = [str(tmp_path / it) if it.endswith(".db") else it for it in store]
    answers = schema_answers()
    calls = 0

    def once_ill(request: ProviderRequest) -> Action:
        nonlocal calls
        calls += 1
        return Fail(500) if calls == 1 else answers(request)

    with open_receiver() as (url, got):
        async with (
            open_fake_provider(once_ill) as provider,
            open_process(
                tmp_path, provider.url, *store,
                environment={
                    "OTEL_EXPORTER_OTLP_ENDPOINT": url,
                    "OTEL_SERVICE_NAME": "tickets",
                },
            ) as worker,
        ):  # fmt: skip
            done = await ask(
                worker.port, "POST", f"{RUNS}?wait=20", INPUTS,
                headers={"traceparent": f"00-{TRACE}-{PARENT}-01"},
            )  # fmt: skip
            assert done.json["status"] == "succeeded", done.json
            worker.popen.terminate()
            assert await worker.exit_status() == 0
            logged = [
                json.loads(line)
                for line in worker.log.read_text().splitlines()
                if '"model_call_retried"' in line
            ]
    run: str = done.json["run_id"]
    spans: dict[str, Span] = {}
    for path, body in got:
        if path == "/v1/traces":
            for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
                (service,) = (
                    it.value.string_value
                    for it in resource.resource.attributes
                    if it.key == "service.name"
                )
                assert service == "tickets"
                spans |= {it.name: it for s in resource.scope_spans for it in s.spans}
    assert set(spans) == {"run triage", "step classify", "chat fake"}
    assert {it.trace_id.hex() for it in spans.values()} == {TRACE}
    assert spans["run triage"].parent_span_id.hex() == PARENT
    assert spans["step classify"].parent_span_id == spans["run triage"].span_id
    assert spans["chat fake"].parent_span_id == spans["step classify"].span_id
    said = {it.key: it.value.string_value for it in spans["run triage"].attributes}
    assert said == {
        "dspex.program": "triage", "dspex.run": run, "dspex.status": "succeeded",
    }  # fmt: skip
    instruments = {
        it.name
        for path, body in got
        if path == "/v1/metrics"
        for resource in ExportMetricsServiceRequest.FromString(body).resource_metrics
        for scope in resource.scope_metrics
        for it in scope.metrics
    }
    assert {
        "dspex.run.duration", "gen_ai.client.operation.duration",
        "gen_ai.client.token.usage",
    } <= instruments  # fmt: skip
    assert [(it["run"], it["trace_id"]) for it in logged] == [(run, TRACE)]


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"),
        ("OTEL_TRACES_EXPORTER", "zipkin"),
    ],
)
async def test_telemetry_that_cannot_be_sent_is_named_at_the_start(
    tmp_path: Path, variable: str, value: str
) -> None:
    environment = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9"}
    done = await dspex(
        "worker", "--app", tmp_path, environment=environment | {variable: value}
    )
    assert done.status == 2
    assert variable in done.err
    assert repr(value) in done.err
    assert "Traceback" not in done.err
