"""Watching: what the steps of an accepted run do, as events of its record.

Wrapped around the backends, where every step passes, and around the effects of each,
where every model call passes, also of a model of a predictor's own. Runs that nobody
accepted (`Runtime.run`) are not watched.
"""

import time
from collections.abc import Awaitable, Callable, Mapping
from contextvars import ContextVar
from typing import Any, Final, TypeVar, cast

import trio

from dspex.providers.errors import ProviderError
from dspex.providers.messages import Response
from dspex.runtime.engine import (
    PLAIN,
    Backend,
    Codec,
    Effects,
    Shape,
    Step,
    StepResult,
    StepText,
)
from dspex.runtime.reasons import describe
from dspex.worker.run_record import RunRecord
from dspex.worker.run_spans import step_span
from dspex.worker.run_texts import RunTexts, StepTexts

T = TypeVar("T")

_MAX_TEXT: Final = 4_000
_MAX_STEPS: Final = 1_000

watched_run: ContextVar[RunRecord | None] = ContextVar(
    "dspex_watched_run", default=None
)


class WatchedBackend:
    """A backend whose steps are told to the run they belong to."""

    def __init__(self, inner: Backend, *, keep_text: bool = True) -> None:
        self.inner = inner
        self._keep_text = keep_text
        # The outputs that are text, of each step that tells them while it writes.
        self._outputs: dict[str, tuple[str, ...]] = {}

    def shape(self, step: Step) -> Shape:
        """Give what the step takes and gives; raises what the backend raises."""
        return self.inner.shape(step)

    async def prepare(self, name: str, step: Step) -> None:
        """Start what the step needs."""
        await self.inner.prepare(name, step)

    async def release(self, name: str, step: Step) -> None:
        """End what the step has needed."""
        await self.inner.release(name, step)

    async def run(
        self,
        name: str,
        step: Step,
        inputs: Mapping[str, Any],  # Any: whatever the signature says
        *,
        effects: Effects,
        deadline: float,
    ) -> StepResult:
        """Run the step, and tell when it began and how it ended."""
        record = watched_run.get()
        if record is None:
            return await self.inner.run(
                name, step, inputs, effects=effects, deadline=deadline
            )
        label = name.partition("/")[2].partition("@")[0]
        record.note("step_started", step=label, backend=step.backend)
        began = trio.current_time()
        texts: StepTexts | None = None
        if step.options.stream:
            place = (label, _item_of(effects.path))
            texts = self._texts_of(record).step(place, self._text_outputs(name, step))
        watched = cast(
            "Effects",
            _WatchedEffects(
                effects, record, label, texts=texts, keep_text=self._keep_text
            ),
        )
        try:
            with step_span(label, step.backend):
                result = await self.inner.run(
                    name, step, inputs, effects=watched, deadline=deadline
                )
        except Exception as error:
            if texts is not None:
                texts.close()
            seconds = round(trio.current_time() - began, 6)
            problem = describe(error)
            record.note("step_failed", step=label, seconds=seconds, error=problem)
            raise
        if texts is not None:
            texts.settle(result.outputs)
        record.note(
            "step_finished",
            step=label,
            seconds=round(trio.current_time() - began, 6),
            usage=dict(result.usage),
        )
        return result

    def _texts_of(self, record: RunRecord) -> RunTexts:
        if record.texts is None:
            record.texts = RunTexts(record, is_kept=self._keep_text)
        return record.texts

    def _text_outputs(self, name: str, step: Step) -> tuple[str, ...]:
        found = self._outputs.get(name)
        if found is None:
            if len(self._outputs) >= _MAX_STEPS:
                self._outputs.clear()
            outputs = self.shape(step).outputs.items()
            found = tuple(it for it, annotation in outputs if annotation is str)
            self._outputs[name] = found
        return found


def _item_of(path: str) -> int | None:
    _, bracket, rest = path.partition("[")
    return int(rest.partition("]")[0]) if bracket else None


class _WatchedEffects:
    """The effects of a dispatch; tells of model calls, and of answers without one.

    `keep_text` False leaves prompts and completions out.
    """

    def __init__(
        self,
        inner: Effects,
        record: RunRecord,
        step: str,
        *,
        texts: StepText | None,
        keep_text: bool,
    ) -> None:
        self.texts = texts
        self._inner = inner
        self._record = record
        self._step = step
        self._keep_text = keep_text

    async def perform(
        self,
        fingerprint: str,
        call: Callable[[], Awaitable[T]],
        *,
        codec: Codec[T] = PLAIN,
        request: Callable[[], Any] | None = None,  # Any: JSON
    ) -> T:
        """Pass on, and tell what was asked of a model, whichever it is."""
        was_called = False
        model = fingerprint.rpartition(":")[0]

        async def told() -> T:
            nonlocal was_called
            was_called = True
            if codec.kind != "model":
                return await call()
            return await self._tell(model, call, request)

        result = await self._inner.perform(
            fingerprint, told, codec=codec, request=request
        )
        if not was_called:
            facts: dict[str, Any] = {"call": codec.kind}  # Any: JSON
            if isinstance(result, Response):
                facts |= {"model": model}
                facts |= _answer_facts(result, keep_text=self._keep_text)
            self._record.note("call_journaled", step=self._step, **facts)
        return result

    async def _tell(
        self,
        model: str,
        call: Callable[[], Awaitable[T]],
        request: Callable[[], Any] | None,  # Any: JSON
    ) -> T:
        began = time.time()
        facts: dict[str, Any] = {"step": self._step, "model": model, "began": began}
        if self._keep_text and request is not None:
            facts["prompt"] = [
                {"role": it["role"], "text": _text_of(it["content"])[:_MAX_TEXT]}
                for it in request()["messages"]
            ]
        try:
            answer = await call()
        except Exception as error:
            tried = error.attempts if isinstance(error, ProviderError) else ()
            self._record.note(
                "call_failed",
                **facts,
                attempts=max(1, len(tried)),
                error=describe(error),
            )
            raise
        if isinstance(answer, Response):
            facts |= _answer_facts(answer, keep_text=self._keep_text)
        self._record.note(
            "call_finished", seconds=round(time.time() - began, 6), **facts
        )
        return answer


def _text_of(content: str | list[dict[str, Any]]) -> str:  # Any: JSON
    """Give the text of a message as it is kept: `Message.text`, of its JSON."""
    if isinstance(content, str):
        return content
    return "".join(part["text"] for part in content if part["type"] == "text")


def _answer_facts(
    response: Response, *, keep_text: bool
) -> dict[str, Any]:  # Any: JSON
    """Give what an event tells of a model's answer; the usual is left out."""
    facts: dict[str, Any] = {"usage": response.usage.to_json()}
    if response.choices[0].finish_reason == "length":
        facts["is_truncated"] = True
    if response.is_cached:
        facts["is_cached"] = True
    if response.attempts > 1:
        facts["attempts"] = response.attempts
    if keep_text:
        facts["completion"] = response.text[:_MAX_TEXT]
    return facts
