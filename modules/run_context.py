"""Time, chance and identity asked through the run, so that a resumed run asks once.

    from dspex.modules import run_context

    class Lottery(Module):
        async def forward(self, names: list[str]) -> dict[str, object]:
            chance = await run_context.random()
            return {"winner": chance.choice(names), "at": await run_context.now()}

In a run with a journal each answer is an effect: it is on disk before the program gets
it, and a run that goes on in another process gets the same one. Elsewhere it is made up
afresh. When a forward runs again because a check failed, it gets the answers it had.

Answers are told apart by their order within the step. Concurrent branches of one
forward should ask before they part.
"""

import secrets
import time
import uuid as uuids
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from random import Random
from typing import Final, TypeVar

import trio

from dspex.modules.call import current_call

T = TypeVar("T")

RUN_PREFIX: Final = "run "
"""What the fingerprint of such an effect begins with."""


async def now() -> datetime:
    """Give the time, in UTC."""
    return datetime.fromtimestamp(await _ask("now", _time), UTC)


async def random() -> Random:
    """Give a generator of random numbers that was seeded by the run."""
    return Random(await _ask("random", _seed))


async def uuid() -> uuids.UUID:
    """Give a new random UUID, as an idempotency key for the other side, say."""
    return uuids.UUID(await _ask("uuid", _uuid))


async def _time() -> float:
    return time.time()


async def _seed() -> str:
    return secrets.token_hex(16)


async def _uuid() -> str:
    return str(uuids.uuid4())


async def _ask(what: str, make: Callable[[], Awaitable[T]]) -> T:
    call = current_call()
    if call is None:
        await trio.lowlevel.checkpoint()
        return await make()
    return await call.perform(f"{RUN_PREFIX}{what}", make)
