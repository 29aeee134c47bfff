"""InheritedRuns: what the last incarnation of DurableRuns had, and nobody has told."""

from collections.abc import Set as AbstractSet

from dspex.runtime.engine.run_board import RunBoard
from dspex.runtime.journal import Journal


class InheritedRuns:
    """Runs of an actor that died; whose they are now only the store knows.

    It may have died between the end of a run in the store and the telling; and what it
    gave back may be another worker's by now, or cancelled.
    """

    def __init__(self, board: RunBoard) -> None:
        self._board = board
        self._runs = set(board.untold)

    async def settle(
        self, journal: Journal, worker: str, executing: AbstractSet[str]
    ) -> None:
        """Tell of those that are not this worker's; look at the pending again later."""
        if not self._runs:
            return
        owners = await journal.owners(self._runs)
        self._runs &= self._board.untold - executing
        for run in list(self._runs):
            # Pending, or on the way here from the claim: not settled yet.
            if owners.get(run, "") not in (None, worker):
                self._runs.discard(run)
                self._board.tell(run, None)
