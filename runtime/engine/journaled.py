"""JournaledRun: the effects of one run, kept in the store under its fence."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field

from dspex.runtime.engine.effects import EffectKey, FinishedEffect, Json
from dspex.runtime.engine.json_text import to_text
from dspex.runtime.engine.worker_lease import WorkerLease
from dspex.runtime.journal import AddEvent, Fence, Journal, RecordEffect


@dataclass(frozen=True, slots=True)
class JournaledRun:
    """What the engine needs to keep the effects of a run that this worker has."""

    journal: Journal
    fence: Fence
    stored: Mapping[EffectKey, Json] = field(default_factory=dict[EffectKey, Json])
    keep_requests: bool = True
    lease: WorkerLease | None = None

    @property
    def run(self) -> str:
        """The run's id."""
        return self.fence.run

    async def hold(self) -> None:
        """Return while this worker has the run; else wait until it is known.

        Raises:
            StoreError: that cannot be known.
        """
        if self.lease is not None:
            await self.lease.hold()

    async def record(self, effect: FinishedEffect) -> None:
        """Keep an effect; returns when it is on disk.

        Raises:
            NotJsonError: it cannot be written down.
            StoreError: it is not on disk.
            LeaseLostError: the run belongs to another worker now.
            RunCancelledError: the run was cancelled.
        """
        path, fingerprint, occurrence = effect.key
        request = effect.request if self.keep_requests else None
        await self.journal.write(
            RecordEffect(
                self.fence,
                path,
                fingerprint,
                occurrence,
                effect.kind,
                None if request is None else to_text(request),
                to_text(effect.response),
                to_text(effect.usage) if effect.usage else None,
                effect.seconds,
                effect.finished_at,
            )
        )

    def note(self, kind: str, body: Mapping[str, Json]) -> None:
        """Keep that something happened; does not wait for the disk."""
        self.journal.note(AddEvent(self.fence, time.time(), kind, to_text(body)))


async def read_stored(journal: Journal, run: str) -> dict[EffectKey, Json]:
    """Give the responses that earlier attempts of a run have kept."""
    return await journal.responses(run)
