"""OpenTelemetry for a process that has nobody else to set it up: by its environment.

OTEL_EXPORTER_OTLP_ENDPOINT (or the one of traces or metrics alone) turns it on; the SDK
reads the other standard variables (OTEL_SERVICE_NAME, OTEL_RESOURCE_ATTRIBUTES,
OTEL_EXPORTER_OTLP_HEADERS, ...) itself. An embedded runtime leaves this to its host.
"""

import os
from collections.abc import Generator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Final

from opentelemetry import metrics, trace

from dspex.runtime import DspexError

_ENDPOINT: Final = "OTEL_EXPORTER_OTLP_ENDPOINT"
_PROTOCOL: Final = "OTEL_EXPORTER_OTLP_PROTOCOL"
_HTTP: Final = "http/protobuf"


class OtelError(DspexError):
    """The environment asks for telemetry that this process cannot send."""


@contextmanager
def open_otel(environment: Mapping[str, str] = os.environ) -> Generator[None]:
    """Send the spans and metrics of this process, if its environment says where to.

    What is not sent yet is sent when the block is left. Threads of the SDK send it; a
    receiver that is gone stops nobody.

    Raises:
        OtelError: the extra `otel` is missing, or a variable asks for what it has not.
    """
    signals = [it for it in ("traces", "metrics") if _is_wanted(it, environment)]
    if not signals:
        yield
        return
    try:
        from opentelemetry.exporter.otlp.proto.http.metric_exporter import (
            OTLPMetricExporter,
        )
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import (
            OTLPSpanExporter,
        )
        from opentelemetry.sdk.metrics import MeterProvider
        from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ModuleNotFoundError as error:
        raise OtelError(
            f"{_ENDPOINT} is set but there is no module {error.name!r}: "
            "pip install 'dspex[otel]'"
        ) from error
    # An empty name would be one, too; what the environment says goes before this.
    named = {} if environment.get("OTEL_SERVICE_NAME") else {"service.name": "dspex"}
    resource = Resource.create(named)
    with ExitStack() as stack:
        if "traces" in signals:
            tracing = TracerProvider(resource=resource, shutdown_on_exit=False)
            stack.callback(tracing.shutdown)
            tracing.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
            trace.set_tracer_provider(tracing)
        if "metrics" in signals:
            reader = PeriodicExportingMetricReader(OTLPMetricExporter())
            metering = MeterProvider([reader], resource, shutdown_on_exit=False)
            stack.callback(metering.shutdown)
            metrics.set_meter_provider(metering)
        yield


def _is_wanted(signal: str, environment: Mapping[str, str]) -> bool:
    """Whether spans or metrics are to be sent.

    Raises:
        OtelError: by an exporter or protocol that the extra has not.
    """
    upper = signal.upper()
    exporter = environment.get(f"OTEL_{upper}_EXPORTER", "otlp")
    own = f"OTEL_EXPORTER_OTLP_{upper}_ENDPOINT"
    is_on = environment.get(_ENDPOINT) or environment.get(own)
    if (
        not is_on
        or exporter == "none"
        or environment.get("OTEL_SDK_DISABLED", "").lower() == "true"
    ):
        return False
    if exporter != "otlp":
        raise OtelError(f"OTEL_{upper}_EXPORTER={exporter!r} is not otlp or none")
    own_protocol = f"OTEL_EXPORTER_OTLP_{upper}_PROTOCOL"
    protocol = environment.get(own_protocol) or environment.get(_PROTOCOL, _HTTP)
    if protocol != _HTTP:
        raise OtelError(f"{_PROTOCOL}={protocol!r} is not {_HTTP}")
    return True
