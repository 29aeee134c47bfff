"""Observer health: limiters, breakers and dspy processes, as lines for the page."""

from collections.abc import Iterator
from dataclasses import dataclass

import trio

from dspex.providers.breaker import Breaker, BreakerState
from dspex.providers.cache import Cached
from dspex.providers.limiter import RateLimiter
from dspex.providers.lm import LM, models_within
from dspex.runtime.bridge import DspyPool
from dspex.worker.app import Runtime


@dataclass(frozen=True, slots=True)
class Part:
    """One limiter, breaker, cache or pool; `used` of `limit` is drawn as a bar."""

    kind: str
    name: str
    state: str
    facts: str
    level: str = ""
    used: int = 0
    limit: int = 0


def health(runtime: Runtime) -> list[Part]:
    """Give what stands between steps and their models and processes."""
    found = [part for model in _models(runtime.lm) for part in _model(model)]
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
        for model in models_within(lm):
            yield from _models(model)


def _model(model: LM) -> Iterator[Part]:
    if isinstance(model, Breaker):
        yield _breaker(model)
    elif isinstance(model, Cached):
        asked = model.hits + model.misses
        facts = f"{model.hits} of {asked} answers came from it"
        yield Part("cache", model.name, "in use", facts, "", model.hits, asked)


def _breaker(breaker: Breaker) -> Part:
    facts, level = {
        BreakerState.CLOSED: ("calls pass", ""),
        BreakerState.HALF_OPEN: ("one call tries whether it answers again", "warn"),
        BreakerState.OPEN: (
            "calls fail at once: it failed too often lately",
            "critical",
        ),
    }[breaker.state]
    state = breaker.state.name.lower().replace("_", "-")
    return Part("breaker", breaker.name, state, facts, level)


def _limiter(name: str, limiter: RateLimiter) -> Part:
    now = limiter.figures
    pause = now.paused_until - trio.current_time()
    facts = f"{now.running} under way, {now.waiting} wait, {now.factor:.0%} of its rate"
    limit = limiter.limits.concurrency or 0
    if pause > 0:
        facts = f"{facts}, the provider asked for a pause of {pause:.0f} s more"
        return Part("limiter", name, "paused", facts, "warn", now.running, limit)
    level = "warn" if now.waiting or now.factor < 1 else ""
    state = "holding back" if level else "open"
    return Part("limiter", name, state, facts, level, now.running, limit)


def _pool(name: str, pool: DspyPool) -> Part:
    now = pool.figures
    facts = f"{now.busy} of {now.size} busy, {now.queued} queued; served {now.served}"
    counts = {
        "starting": now.starting,
        "failed": now.failed,
        "timed out": now.timed_out,
        "died": now.died,
        "recycled": now.recycled,
        "unhealthy": now.unhealthy,
        "rejected": now.rejected,
    }
    facts += "".join(f", {count} {what}" for what, count in counts.items() if count)
    if not now.size:
        return Part("dspy processes", name, "starting", facts, "warn")
    level = "warn" if now.queued else ""
    state = "queueing" if level else "ready"
    return Part("dspy processes", name, state, facts, level, now.busy, now.size)
