"""A worker in which everything that the observer can show has happened."""

import json
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import trio

from dspex import App, ChildSpec, Program, Step
from dspex.providers import (
    Breaker,
    Cached,
    Choice,
    Limits,
    MemoryStore,
    ProviderTimeoutError,
    RateLimiter,
    Request,
    Response,
    Usage,
)
from dspex.providers.lm import Capabilities
from dspex.providers.messages import Message
from dspex.testing import ScriptedLM
from dspex.worker.application import open_app
from dspex.worker.serve import bind, listen, make_service
from dspex.worker.service import Service
from dspex.worker.settings import WorkerSettings

TICKETS = (
    "My invoice shows the same item twice",
    "The app closes when I rotate the phone",
    "How do I add a second user?",
)
PYTHON_STEP = """
def compare(first: str, second: str) -> dict[str, float]:
    words, others = set(first.split()), set(second.split())
    return {"agreement": len(words & others) / max(len(words | others), 1)}
"""
ANSWERS = {
    "category": "billing",
    "answer": "Bees make honey, and wax.",
    "reasoning": "They collect nectar and turn it into honey.",
    "reply": "We took the second item off your invoice. Sorry about that!",
    "summary": "A customer was charged twice.",
    "verdict": "calm",
}


class UnevenLM:
    """A scripted model with a price, whose answers came at the second try or short."""

    name = "openai:gpt-4o-mini"

    def __init__(self, *, delay: float) -> None:
        self._calls = 0
        self._inner = ScriptedLM(answer, name=self.name, delay=delay)

    @property
    def capabilities(self) -> Capabilities:
        return self._inner.capabilities

    async def complete(
        self,
        request: Request | str | Sequence[Message],
        *,
        timeout: float | None = None,
    ) -> Response:
        response = await self._inner.complete(request, timeout=timeout)
        self._calls += 1
        text = Request.of(request).messages[-1].text
        return replace(response, attempts=3 if "rotate" in text else 1)


def answer(request: Request) -> str | Response | Exception:
    """Give every field that a program here asks for."""
    text = request.messages[-1].text
    if "impossible" in text:
        return ProviderTimeoutError("no answer within 20 s", provider="openai")
    body = json.dumps(ANSWERS)
    reason = "length" if "second user" in text else "stop"
    words = Usage(len(text.split()) * 2, len(body.split()) * 2)
    return Response((Choice(body, finish_reason=reason),), words, "gpt-4o-mini")  # type: ignore[arg-type]


def programs() -> list[Program]:
    def step(signature: str, **more: object) -> Step:
        return Step.model_validate(
            {"module": "Predict", "signature": signature, **more}
        )

    triage = Program(
        name="triage",
        description="Sort a ticket, and answer it.",
        steps={
            "classify": step("ticket -> category"),
            "reply": step(
                "ticket, category -> reply", inputs={"category": "classify.category"}
            ),
        },
    )
    digest = Program(
        name="digest",
        description="Sum up many tickets at once, then say how bad it is.",
        steps={
            "summarise": step("ticket -> summary", map={"ticket": "inputs.tickets"}),
            "judge": step(
                "summaries: list[str] -> verdict",
                inputs={"summaries": "summarise.summary"},
            ),
        },
    )
    return [triage, digest]


def python_program(folder: Path) -> Path:
    """Write a program with a plain Python step, which runs in a dspy process."""
    (folder / "scene_steps.py").write_text(PYTHON_STEP)
    path = folder / "compare.yaml"
    path.write_text(
        "name: compare\n"
        "description: A model's answer, measured by a Python function.\n"
        "steps:\n"
        "  first: {module: ChainOfThought, signature: question -> answer}\n"
        "  compare:\n"
        "    backend: python\n"
        "    module: scene_steps:compare\n"
        '    signature: "first: str, second: str -> agreement: float"\n'
        "    inputs: {first: first.answer, second: inputs.question}\n"
    )
    return path


@asynccontextmanager
async def open_scene(
    store: Path | None = None, *, delay: float = 0.05, more: Sequence[Path] = ()
) -> AsyncGenerator[tuple[Service, int]]:
    """Open a worker with everything before its model; give it and its port."""
    lm = Cached(Breaker(UnevenLM(delay=delay), failures=50), MemoryStore())  # type: ignore[arg-type]
    limits = ChildSpec(
        "openai-limits", RateLimiter, (Limits(concurrency=8),), name="openai-limits"
    )
    settings = WorkerSettings(port=0)
    app = App(*programs(), *more, lm=lm, children=[limits])
    async with open_app(app, store=store) as runtime, trio.open_nursery() as nursery:
        service = make_service(runtime, settings)
        (url,) = await nursery.start(listen, service, bind(settings))
        yield service, int(url.rpartition(":")[2])
        service.closing.set()
