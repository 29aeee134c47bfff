"""WantedRuns: what a process was asked for, and does not execute."""

from collections.abc import Collection, Iterable

from dspex.runtime.journal import Journal
from dspex.runtime.log import get_logger

log = get_logger()


class WantedRuns:
    """Runs that a process without `resume` answers for, whoever had them before.

    It was asked for them with a key that another process has used, or had them itself
    in an earlier incarnation. Those that nobody executes it has executed here.
    """

    def __init__(self) -> None:
        self._runs: set[str] = set()

    def add(self, *runs: Iterable[str]) -> None:
        """Answer for more runs."""
        self._runs.update(*runs)

    def clear(self) -> None:
        """Answer for none: this process executes whatever is pending."""
        self._runs.clear()

    async def take_up(self, journal: Journal, dead: Collection[str]) -> list[str]:
        """Give those that are pending, after burying the dead who had one.

        Those that have ended are forgotten.
        """
        if not self._runs:
            return []
        asked = set(self._runs)
        owners = await journal.owners(asked)
        self._runs -= asked - owners.keys()
        gone = {it for it in owners.values() if it is not None and it in dead}
        if gone:
            back = await journal.bury(sorted(gone))
            log.warning("workers_buried", workers=sorted(gone), runs=back)
        return [run for run, owner in owners.items() if owner is None or owner in gone]
