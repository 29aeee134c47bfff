"""Observer health: limiters, breakers and dspy processes, as lines for the page."""

from collections.abc import Iterator
from dataclasses import dataclass

import trio

from dspex.providers.breaker import Breaker, BreakerState
from dspex.providers.limiter import RateLimiter
from dspex.providers.lm import LM
from dspex.runtime.bridge import DspyPool
from dspex.worker.app import Runtime


@dataclass(frozen=True, slots=True)
class Part:
    """One limiter, breaker or pool: whether all is well, and its figures."""

    kind: str
    name: str
    state: str
    facts: str


def health(runtime: Runtime) -> list[Part]:
    """Give what stands between steps and their models and processes."""
    found = [
        _breaker(model) for model in _models(runtime.lm) if isinstance(model, Breaker)
    ]
    for process in runtime.node.processes():
        actor = process.ref.port.actor
        if isinstance(actor, RateLimiter):
            found.append(_limiter(process.ref.name, actor))
        elif isinstance(actor, DspyPool):
            found.append(_pool(process.ref.name, actor))
    return found


def _models(lm: LM | None) -> Iterator[LM]:
    """Give a model and those that it stands before."""
    if lm is not None:
        yield lm
        inner: tuple[LM, ...] = getattr(lm, "inner", ())
        for model in inner:
            yield from _models(model)


def _breaker(breaker: Breaker) -> Part:
    state = {
        BreakerState.CLOSED: "running",
        BreakerState.HALF_OPEN: "restarting",
        BreakerState.OPEN: "failed",
    }[breaker.state]
    facts = breaker.state.name.lower().replace("_", " ")
    return Part("breaker", breaker.name, state, facts)


def _limiter(name: str, limiter: RateLimiter) -> Part:
    now = limiter.figures
    pause = now.paused_until - trio.current_time()
    facts = f"{now.running} under way, {now.waiting} wait, {now.factor:.0%} of its rate"
    if pause > 0:
        return Part("limiter", name, "suspended", f"{facts}, paused {pause:.0f} s")
    return Part("limiter", name, "running", facts)


def _pool(name: str, pool: DspyPool) -> Part:
    now = pool.figures
    facts = (
        f"{now.size} ready, {now.busy} busy, {now.starting} starting, "
        f"{now.queued} queued; served {now.served}, failed {now.failed}, "
        f"died {now.died}, recycled {now.recycled}"
    )
    return Part("dspy processes", name, "running" if now.size else "restarting", facts)
