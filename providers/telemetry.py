"""Spans of model calls, by OpenTelemetry's conventions for generative AI.

All names are here, for the conventions are still in development:
https://opentelemetry.io/docs/specs/semconv/gen-ai/ (1.38, spans of inference).
Without an SDK in the process a call costs next to nothing. What was asked and answered
is never recorded.
"""

from collections.abc import Generator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cache
from typing import Final
from urllib.parse import urlsplit

import trio
from opentelemetry import trace
from opentelemetry.trace import Span, SpanKind, Status, StatusCode
from opentelemetry.util.types import AttributeValue

from dspex.providers.errors import Attempt
from dspex.providers.messages import Request, Response
from dspex.providers.prices import Price, read_prices

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

_NO_SPAN: Final = nullcontext(None)

_tracer = trace.get_tracer("dspex.providers")


def model_span(
    provider: str, model: str, url: str, request: Request, history: Sequence[Attempt]
) -> AbstractContextManager["ModelSpan | None"]:
    """Make the block, which is one model call, a span; None when nobody records."""
    span = _tracer.start_span(f"chat {model}", kind=SpanKind.CLIENT)
    if not span.is_recording():
        return _NO_SPAN
    return _recorded(span, provider, model, url, request, history)


@contextmanager
def _recorded(
    span: Span,
    provider: str,
    model: str,
    url: str,
    request: Request,
    history: Sequence[Attempt],
) -> Generator["ModelSpan"]:
    with trace.use_span(
        span, end_on_exit=True, record_exception=False, set_status_on_exception=False
    ):
        span.set_attributes(_request_attributes(provider, model, url, request))
        try:
            yield ModelSpan(span, f"{provider}:{model}")
        except BaseException as error:
            span.set_attribute(ERROR_TYPE, type(error).__name__)
            span.set_status(Status(StatusCode.ERROR, str(error)))
            raise
        finally:
            for attempt in history:
                span.add_event("attempt_failed", {"reason": attempt.reason})


class ModelSpan:
    """The span of a call under way."""

    __slots__ = ("_name", "_span", "_started")

    def __init__(self, span: Span, name: str) -> None:
        self._span = span
        self._name = name
        self._started = trio.current_time()

    def first_chunk(self) -> None:
        """Take note that a streamed answer begins."""
        seconds = trio.current_time() - self._started
        self._span.set_attribute(FIRST_CHUNK_SECONDS, seconds)

    def answered(self, response: Response) -> None:
        """Take note of the answer: its ids, its usage, its cost if that is known."""
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
        price = _prices().get(self._name)
        if price is not None:
            attributes[COST_USD] = price.cost(usage)
        self._span.set_attributes(attributes)


def _request_attributes(
    provider: str, model: str, url: str, request: Request
) -> dict[str, AttributeValue]:
    address = urlsplit(url)
    attributes: dict[str, AttributeValue | None] = {
        OPERATION: "chat",
        PROVIDER: provider,
        REQUEST_MODEL: model,
        OUTPUT_TYPE: "text" if request.output_schema is None else "json",
        REQUEST_TEMPERATURE: request.temperature,
        REQUEST_TOP_P: request.top_p,
        REQUEST_MAX_TOKENS: request.max_tokens,
        REQUEST_SEED: request.seed,
        REQUEST_STOP: request.stop or None,
        REQUEST_CHOICES: request.n if request.n > 1 else None,
        SERVER_ADDRESS: address.hostname,
        SERVER_PORT: address.port,
    }
    return {name: value for name, value in attributes.items() if value is not None}


@cache
def _prices() -> dict[str, Price]:
    return read_prices()
