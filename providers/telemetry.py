"""Spans and metrics of model calls, by OpenTelemetry's conventions for generative AI.

All names are here, for the conventions are still in development:
https://opentelemetry.io/docs/specs/semconv/gen-ai/ (1.38, spans of inference).
Without an SDK in the process a call costs next to nothing. What was asked and answered
is never recorded.
"""

from collections.abc import Sequence
from functools import cache
from types import TracebackType
from typing import Final, Self
from urllib.parse import urlsplit

import trio
from opentelemetry import metrics, trace
from opentelemetry.metrics import Meter
from opentelemetry.trace import Span, SpanKind, Status, StatusCode
from opentelemetry.util.types import AttributeValue

from dspex.providers.errors import Attempt
from dspex.providers.messages import Request, Response
from dspex.providers.prices import response_cost

OPERATION: Final = "gen_ai.operation.name"
PROVIDER: Final = "gen_ai.provider.name"
OUTPUT_TYPE: Final = "gen_ai.output.type"
REQUEST_MODEL: Final = "gen_ai.request.model"
REQUEST_TEMPERATURE: Final = "gen_ai.request.temperature"
REQUEST_TOP_P: Final = "gen_ai.request.top_p"
REQUEST_MAX_TOKENS: Final = "gen_ai.request.max_tokens"
REQUEST_STOP: Final = "gen_ai.request.stop_sequences"
REQUEST_SEED: Final = "gen_ai.request.seed"
REQUEST_CHOICES: Final = "gen_ai.request.choice.count"
RESPONSE_ID: Final = "gen_ai.response.id"
RESPONSE_MODEL: Final = "gen_ai.response.model"
RESPONSE_FINISH: Final = "gen_ai.response.finish_reasons"
FIRST_CHUNK_SECONDS: Final = "gen_ai.response.time_to_first_chunk"
INPUT_TOKENS: Final = "gen_ai.usage.input_tokens"
OUTPUT_TOKENS: Final = "gen_ai.usage.output_tokens"
CACHED_TOKENS: Final = "gen_ai.usage.cache_read.input_tokens"
REASONING_TOKENS: Final = "gen_ai.usage.reasoning.output_tokens"
SERVER_ADDRESS: Final = "server.address"
SERVER_PORT: Final = "server.port"
ERROR_TYPE: Final = "error.type"
# Not of the conventions.
COST_USD: Final = "dspex.usage.cost_usd"

# Metrics.
TOKEN_USAGE: Final = "gen_ai.client.token.usage"
DURATION: Final = "gen_ai.client.operation.duration"
TOKEN_TYPE: Final = "gen_ai.token.type"

_tracer = trace.get_tracer("dspex.providers")


class Instruments:
    """The metrics; the boundaries of their buckets are those of the conventions."""

    def __init__(self, meter: Meter) -> None:
        self.tokens = meter.create_histogram(
            TOKEN_USAGE,
            unit="{token}",
            description="Number of input and output tokens used",
            explicit_bucket_boundaries_advisory=[4.0**n for n in range(14)],
        )
        self.seconds = meter.create_histogram(
            DURATION,
            unit="s",
            description="Duration of a call, with its retries and waits",
            explicit_bucket_boundaries_advisory=[0.01 * 2**n for n in range(14)],
        )


_instruments = Instruments(metrics.get_meter("dspex.providers"))


class ModelCall:
    """Makes a block, which is one model call, a span, and measures it."""

    __slots__ = (
        "_current",
        "_facts",
        "_history",
        "_name",
        "_request",
        "_response",
        "_span",
        "_started",
        "_url",
    )

    def __init__(
        self,
        provider: str,
        model: str,
        url: str,
        request: Request,
        history: Sequence[Attempt],
    ) -> None:
        self._name = (provider, model)
        self._url = url
        self._request = request
        self._history = history
        self._response: Response | None = None
        self._span: Span | None = None

    def __enter__(self) -> Self:
        provider, model = self._name
        self._started = trio.current_time()
        self._facts: dict[str, AttributeValue] = {
            OPERATION: "chat",
            PROVIDER: provider,
            REQUEST_MODEL: model,
            **_address(self._url),
        }
        span = _tracer.start_span(f"chat {model}", kind=SpanKind.CLIENT)
        if span.is_recording():
            self._span = span
            span.set_attributes(self._facts | _request_attributes(self._request))
            self._current = trace.use_span(
                span, record_exception=False, set_status_on_exception=False
            )
            self._current.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        facts, response = self._facts, self._response
        if response is not None:
            facts = facts | {RESPONSE_MODEL: response.model}
            usage = response.usage
            record = _instruments.tokens.record
            record(usage.input_tokens, facts | {TOKEN_TYPE: "input"})
            record(usage.output_tokens, facts | {TOKEN_TYPE: "output"})
        if error is not None:
            facts = facts | {ERROR_TYPE: type(error).__name__}
        _instruments.seconds.record(trio.current_time() - self._started, facts)
        if self._span is not None:
            self._end(self._span, error)

    def first_chunk(self) -> None:
        """Take note that a streamed answer begins."""
        if self._span is not None:
            seconds = trio.current_time() - self._started
            self._span.set_attribute(FIRST_CHUNK_SECONDS, seconds)

    def answered(self, response: Response) -> None:
        """Take note of the answer: its ids, its usage, its cost if that is known."""
        self._response = response
        if self._span is not None:
            name = ":".join(self._name)
            self._span.set_attributes(_response_attributes(name, response))

    def _end(self, span: Span, error: BaseException | None) -> None:
        self._current.__exit__(None, None, None)
        for attempt in self._history:
            span.add_event("attempt_failed", {"reason": attempt.reason})
        if error is not None:
            span.set_attribute(ERROR_TYPE, type(error).__name__)
            span.set_status(Status(StatusCode.ERROR, str(error)))
        span.end()


def _response_attributes(name: str, response: Response) -> dict[str, AttributeValue]:
    usage = response.usage
    attributes: dict[str, AttributeValue] = {
        RESPONSE_MODEL: response.model,
        RESPONSE_FINISH: [choice.finish_reason for choice in response.choices],
        INPUT_TOKENS: usage.input_tokens,
        OUTPUT_TOKENS: usage.output_tokens,
        CACHED_TOKENS: usage.cached_tokens,
        REASONING_TOKENS: usage.reasoning_tokens,
    }
    if response.id is not None:
        attributes[RESPONSE_ID] = response.id
    cost = response_cost(name, response)
    if cost is not None:
        attributes[COST_USD] = cost
    return attributes


def _request_attributes(request: Request) -> dict[str, AttributeValue]:
    attributes: dict[str, AttributeValue | None] = {
        OUTPUT_TYPE: "text" if request.output_schema is None else "json",
        REQUEST_TEMPERATURE: request.temperature,
        REQUEST_TOP_P: request.top_p,
        REQUEST_MAX_TOKENS: request.max_tokens,
        REQUEST_SEED: request.seed,
        REQUEST_STOP: request.stop or None,
        REQUEST_CHOICES: request.n if request.n > 1 else None,
    }
    return {name: value for name, value in attributes.items() if value is not None}


@cache
def _address(url: str) -> dict[str, AttributeValue]:
    address = urlsplit(url)
    attributes = {SERVER_ADDRESS: address.hostname, SERVER_PORT: address.port}
    return {name: value for name, value in attributes.items() if value is not None}
