"""Observer spans: what took place in a run and when, from memory or from the store.

A run of this process is told by its events; any other by what the store has of it:
its steps, and the effects that were paid for.
"""

import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Final

from dspex.providers.prices import Price, read_prices
from dspex.runtime.engine.effects import step_of
from dspex.runtime.journal import EffectRow, Event, RunRow
from dspex.worker.run_record import RunEvent, RunRecord

JSON = Mapping[str, Any]  # Any: JSON

_MAX_TEXT: Final = 4_000
_STARTED: Final = "step_started"
_ENDED: Final = ("step_finished", "step_failed")
_CALLED: Final = ("call_finished", "call_failed", "call_journaled")


@dataclass(frozen=True, slots=True)
class Span:
    """A step, or a call that it made; `began` is of the epoch.

    `marks` say what is unusual about it: running, failed, cached, journaled, retried
    (`attempts` is over 1), cut off (the model's limit ended its answer).
    """

    step: str
    label: str
    is_step: bool
    began: float
    seconds: float
    marks: tuple[str, ...] = ()
    tokens_in: int = 0
    tokens_out: int = 0
    cost: float | None = None
    attempts: int = 1
    prompt: tuple[tuple[str, str], ...] = ()
    completion: str = ""
    error: str = ""


def spans_of_record(record: RunRecord) -> list[Span]:
    """Give the spans of a run that this process has in memory."""
    spans: list[Span] = []
    open_since: dict[str, list[float]] = {}
    starts: Counter[str] = Counter()
    for event in record.events:
        step = str(event.data.get("step", ""))
        if event.kind == _STARTED:
            open_since.setdefault(step, []).append(event.at)
            starts[step] += 1
        elif event.kind in _ENDED:
            if open_since.get(step):
                open_since[step].pop(0)
            spans.append(_step_span(step, event))
        elif event.kind in _CALLED:
            spans.append(_call_span(step, event))
    end = record.finished_at
    for step, times in open_since.items():
        mark = "running" if end is None else "interrupted"
        spans += [
            Span(step, step, True, at, (end or time.time()) - at, (mark,))
            for at in times
        ]
    return _in_order(spans)


def _step_span(step: str, event: RunEvent) -> Span:
    seconds = float(event.data.get("seconds", 0.0))
    usage: JSON = event.data.get("usage") or {}
    error = str(event.data.get("error") or "")
    return Span(
        step,
        step,
        True,
        event.at - seconds,
        seconds,
        ("failed",) if event.kind == "step_failed" else (),
        int(usage.get("input_tokens", 0)),
        int(usage.get("output_tokens", 0)),
        error=error,
    )


def _call_span(step: str, event: RunEvent) -> Span:
    data = event.data
    usage: JSON = data.get("usage") or {}
    began = float(data.get("began", event.at))
    attempts = int(data.get("attempts", 1))
    model = str(data.get("model", ""))
    is_journaled = event.kind == "call_journaled"
    is_cached = bool(data.get("is_cached")) and not is_journaled
    marks = _marks(
        failed=event.kind == "call_failed",
        journaled=is_journaled,
        cached=is_cached,
        retried=attempts > 1 and not is_journaled,
        cut_off=bool(data.get("is_truncated")),
    )
    return Span(
        step,
        model or str(data.get("call", "call")),
        False,
        began,
        event.at - began,
        marks,
        int(usage.get("input_tokens", 0)),
        int(usage.get("output_tokens", 0)),
        0.0 if is_cached or is_journaled else _cost(model, usage),
        attempts,
        tuple((str(it["role"]), str(it["text"])) for it in data.get("prompt", ())),
        str(data.get("completion", "")),
        str(data.get("error") or ""),
    )


def spans_of_row(
    row: RunRow, effects: Sequence[EffectRow], events: Sequence[Event]
) -> list[Span]:
    """Give the spans of a run as the store has it."""
    spans = [_effect_span(effect) for effect in effects]
    if row.steps is None:
        spans += _steps_under_way(events)
    for step in row.steps or ():
        began = step["started_at"]
        if began is None:
            continue
        marks = _marks(
            failed=bool(step.get("error")), retried=int(step.get("attempts", 1)) > 1
        )
        usage: JSON = step.get("usage") or {}
        spans.append(
            Span(
                step["name"],
                step["name"],
                True,
                began,
                step["seconds"],
                marks,
                int(usage.get("input_tokens", 0)),
                int(usage.get("output_tokens", 0)),
                attempts=max(1, int(step.get("attempts", 1))),
                error=str(step.get("error") or ""),
            )
        )
    return _in_order(spans)


def _steps_under_way(events: Iterable[Event]) -> list[Span]:
    began: dict[str, float] = {}
    spans: list[Span] = []
    for event in events:
        step = str(event.body.get("step", ""))
        if event.kind == _STARTED:
            began[step] = event.at
        elif event.kind in _ENDED and step in began:
            at = began.pop(step)
            marks = ("failed",) if event.kind == "step_failed" else ()
            error = str(event.body.get("error") or "")
            spans.append(Span(step, step, True, at, event.at - at, marks, error=error))
    now = time.time()
    spans += [
        Span(step, step, True, at, now - at, ("running",)) for step, at in began.items()
    ]
    return spans


def _effect_span(effect: EffectRow) -> Span:
    step = step_of(effect.path)
    began = effect.finished_at - effect.seconds
    usage = effect.usage
    if effect.kind != "model":
        label = "python" if effect.kind == "value" else effect.kind
        return Span(step, label, False, began, effect.seconds)
    response: JSON = effect.response or {}
    model = effect.fingerprint.rpartition(":")[0]
    choices: list[JSON] = response.get("choices") or [{}]
    choice = choices[0]
    attempts = int(response.get("attempts", 1))
    is_cached = bool(response.get("is_cached"))
    request: JSON = effect.request or {}
    messages: list[JSON] = request.get("messages") or []
    return Span(
        step,
        model,
        False,
        began,
        effect.seconds,
        _marks(
            cached=is_cached,
            retried=attempts > 1,
            cut_off=choice.get("finish_reason") == "length",
        ),
        int(usage.get("input_tokens", 0)),
        int(usage.get("output_tokens", 0)),
        0.0 if is_cached else _cost(model, usage),
        attempts,
        tuple(
            (str(it.get("role", "")), message_text(it.get("content")))
            for it in messages
        ),
        str(choice.get("text", ""))[:_MAX_TEXT],
    )


def message_text(content: Any) -> str:  # Any: JSON
    """Give the text of a message's content: a text, or a list of parts."""
    if isinstance(content, str):
        return content[:_MAX_TEXT]
    parts: list[JSON] = list(content or ())
    texts = [str(it.get("text") or f"[{it.get('type')}]") for it in parts]
    return "".join(texts)[:_MAX_TEXT]


def _marks(
    *,
    failed: bool = False,
    journaled: bool = False,
    cached: bool = False,
    retried: bool = False,
    cut_off: bool = False,
) -> tuple[str, ...]:
    told = {
        "failed": failed,
        "journaled": journaled,
        "cached": cached,
        "retried": retried,
        "cut off": cut_off,
    }
    return tuple(mark for mark, holds in told.items() if holds)


@cache
def _prices() -> dict[str, Price]:
    return read_prices()


def _cost(model: str, usage: JSON) -> float | None:
    price = _prices().get(model)
    if price is None:
        return None
    cached = int(usage.get("cached_tokens", 0))
    fresh = int(usage.get("input_tokens", 0)) - cached
    written = int(usage.get("output_tokens", 0))
    return (fresh * price.input + cached * price.cached + written * price.output) / 1e6


def _in_order(spans: list[Span]) -> list[Span]:
    """Give steps as they began, each with its calls after it."""
    first: dict[str, float] = {}
    for span in spans:
        first[span.step] = min(first.get(span.step, span.began), span.began)
    return sorted(
        spans, key=lambda it: (first[it.step], it.step, it.began, not it.is_step)
    )
