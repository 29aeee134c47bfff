"""Journaled work: an evaluation or a compile that goes on where a death ended it.

Every model call and tool call of a try is an effect, kept in the store when it is
finished. The same work started again decides the same, for the answers it decided by
come from the store: it repeats no finished call.
"""

import json
import time
import uuid
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final, Protocol

import trio

from dspex.providers.messages import Usage
from dspex.runtime.engine import Effects
from dspex.runtime.engine.effects import EffectKey, EffectLog, FinishedEffect, Json
from dspex.runtime.engine.journaled import JournaledRun
from dspex.runtime.engine.json_text import to_text
from dspex.runtime.journal import AcceptRun, Fence, FinishRun, Journal

# The owner of all such work. It is no worker: nobody claims what it has, and the next
# process that does the same work has the same right to it.
_OWNER: Final = "optimizer"
_EPOCH: Final = 1
_IDS: Final = uuid.UUID("0f3b7d52-2a53-5a0b-8e7b-9b8f5d2c61aa")


class EffectScopes(Protocol):
    """Gives the effects of a place, such as the third example of an evaluation."""

    @property
    def is_finished(self) -> bool:
        """Whether all that the work needs was kept by an earlier process."""
        ...

    def scope(self, path: str) -> Effects:
        """Give the effects at this place; ask once for each place."""
        ...


class InPlace:
    """Puts every place below another: `candidate 2/train[5]`."""

    def __init__(self, scopes: EffectScopes, prefix: str) -> None:
        self._scopes = scopes
        self._prefix = prefix

    @property
    def is_finished(self) -> bool:
        """Whether the whole work is finished."""
        return self._scopes.is_finished

    def scope(self, path: str) -> Effects:
        """Give the effects of the place below the prefix."""
        return self._scopes.scope(f"{self._prefix}/{path}")


def below(scopes: EffectScopes | None, prefix: str) -> EffectScopes | None:
    """Give the scopes below a place; None where nothing is journaled."""
    return None if scopes is None else InPlace(scopes, prefix)


def scope_of(scopes: EffectScopes | None, path: str) -> Effects | None:
    """Give the effects at a place; None where nothing is journaled."""
    return None if scopes is None else scopes.scope(path)


@dataclass(frozen=True, slots=True)
class JournaledWork:
    """Work that is kept in a store under its `id`; hand it on as `journal`.

    `spent` is what earlier processes used for it.
    """

    id: str
    log: EffectLog
    is_finished: bool
    spent: Usage
    _journal: Journal

    def scope(self, path: str) -> Effects:
        """Give the effects at this place of the work."""
        return self.log.scope(path)

    async def finish(self, outputs: Mapping[str, Any]) -> None:  # Any: JSON
        """Keep what came of the work; done again it is answered from the store.

        Raises:
            StoreError: it could not be kept.
        """
        if self.is_finished:
            return
        fence = Fence(self.id, _OWNER, _EPOCH)
        await self._journal.write(
            FinishRun(fence, "succeeded", to_text(outputs), None, "[]", time.time())
        )


@asynccontextmanager
async def open_work(
    journal: Journal, *, name: str, what: Mapping[str, Any], version: int = 0
) -> AsyncGenerator[JournaledWork]:
    """Open work for the length of an `async with` block.

    `what` is plain JSON and says all that decides about the work (program, data,
    settings, model): the same again goes on with what is kept, finished or not. Only
    one process at a time should do so, or calls are made twice. Of work that was
    finished or cancelled what is kept answers, and nothing is added to it.

    Raises:
        StoreError: an effect could not be kept; what is kept serves the next time.
    """
    text = json.dumps(what, sort_keys=True, default=str)
    run = uuid.uuid5(_IDS, f"{name}\n{text}").hex
    accepted = AcceptRun(run, name, version, text, "{}", time.time(), _OWNER)
    await journal.accept(accepted)
    is_finished = (await journal.run(run)).is_finished
    rows = await journal.effects(run)
    stored = {(it.path, it.fingerprint, it.occurrence): it.response for it in rows}
    spent = sum((Usage.from_json(dict(it.usage)) for it in rows), start=Usage())
    kept: JournaledRun | _FinishedRun
    if is_finished:
        kept = _FinishedRun(run, stored)
    else:
        kept = JournaledRun(journal, Fence(run, _OWNER, _EPOCH), stored)
    failure: Exception | None = None
    async with trio.open_nursery() as nursery:
        with trio.CancelScope() as scope:
            log = EffectLog(nursery, kept, scope=scope)
            try:
                yield JournaledWork(run, log, is_finished, spent, journal)
            # Raised again below: a nursery would wrap it in a group.
            except Exception as error:  # noqa: BLE001
                failure = error
        nursery.cancel_scope.cancel()
    if log.fault is not None:
        raise log.fault
    if failure is not None:
        raise failure


@dataclass(frozen=True, slots=True)
class _FinishedRun:
    """Work that has ended: its effects answer, and nothing is added to them."""

    run: str
    stored: Mapping[EffectKey, Json]

    async def hold(self) -> None:
        """Return: it is nobody else's."""

    async def record(self, effect: FinishedEffect) -> None:
        """Keep nothing: a metric may have changed since, and ask for more."""

    def note(self, kind: str, body: Mapping[str, Json]) -> None:
        """Keep nothing."""
