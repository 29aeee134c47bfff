"""Errors of the journal.

DspexError
├── StoreError               the store could not be read or written
│   ├── StoreOpenError       it is not there, or cannot be opened
│   ├── StoreFullError       the disk, or the file's size limit, is full
│   ├── StoreLockedError     another process holds it for too long
│   ├── StoreReadOnlyError   it may not be written
│   ├── StoreCorruptError    it is damaged, or no store at all
│   │   └── StoreRowError    one row of it is damaged; the others are not
│   ├── StoreMovedError      its file was deleted or replaced while it was open
│   ├── StoreVersionError    a newer dspex made it
│   └── StoreBusyError       a write or read waited for too long, for nobody's lock
├── LeaseLostError           another worker has this run now
├── RunCancelledError        the run was cancelled
├── RunNotFoundError         no run has that id
├── AmbiguousRunError        several runs have ids that begin so
└── VersionNotFoundError     the store has no such program or version
"""

from typing import Final

from dspex.runtime.errors import DspexError

_SQLITE: Final = "sqlite:///"


class StoreError(DspexError):
    """The store could not be read or written; what was acknowledged is still there."""

    advice = "look at the cause"

    def __init__(self, store: str, problem: str) -> None:
        super().__init__(f"store {store}: {problem}; {self.advice}")
        self.store = store
        self.problem = problem


class StoreOpenError(StoreError):
    """The store is not there, or cannot be opened."""

    advice = "check the path or URL, the folder's rights, and that the server runs"


class StoreFullError(StoreError):
    """The disk, or the file's size limit, is full."""

    advice = "free room (dspex runs prune) and go on: interrupted runs are resumed"


class StoreLockedError(StoreError):
    """Another process holds the store for longer than a write may wait."""

    advice = "find the process that holds it (pg_locks) and end its transaction"

    def __init__(self, store: str, problem: str) -> None:
        if store.startswith(_SQLITE):
            self.advice = self.advice.replace(
                "pg_locks", f"fuser {store.removeprefix(_SQLITE)}"
            )
        super().__init__(store, problem)


class StoreReadOnlyError(StoreError):
    """The store may not be written."""

    advice = "make the file and its folder writable for this user"


class StoreCorruptError(StoreError):
    """The store is damaged, or no store at all."""

    advice = "keep the file, and restore a copy or start with another path"


class StoreRowError(StoreCorruptError):
    """One column of one row has no JSON; the rest of the store can be used."""

    advice = "restore the row from a copy, or delete it"

    def __init__(self, row: str, column: str, problem: str) -> None:
        DspexError.__init__(
            self,
            f"store: the column {column!r} of {row} is damaged: {problem}; "
            f"{self.advice}",
        )
        self.store = ""
        self.problem = problem
        self.row = row
        self.column = column


class StoreMovedError(StoreError):
    """The file of the store was deleted or replaced while it was open."""

    advice = "nothing was written: put the file back, or start this process again"


class StoreVersionError(StoreError):
    """A newer dspex made the store, or changed its tables."""

    advice = "use that version of dspex, or another store"


class StoreBusyError(StoreError):
    """A write or a read waited longer than it may."""

    advice = (
        "give the store time (fewer runs at once, a faster disk), or see if it hangs"
    )


class LeaseLostError(DspexError):
    """Another worker has taken this run over; what this one writes is refused."""

    def __init__(self, run: str, epoch: int) -> None:
        super().__init__(
            f"run {run!r} (epoch {epoch}) belongs to another worker now: "
            "this one stops it"
        )
        self.run = run
        self.epoch = epoch


class RunCancelledError(DspexError):
    """The run was cancelled."""

    def __init__(self, run: str) -> None:
        super().__init__(f"run {run!r} was cancelled")
        self.run = run


class RunNotFoundError(DspexError):
    """No run has that id."""

    def __init__(self, run: str) -> None:
        super().__init__(
            f"there is no run {run!r}: it never was, or was finished and is forgotten"
        )
        self.run = run


class AmbiguousRunError(DspexError):
    """Several runs have ids that begin with what was given for one."""

    def __init__(self, run: str) -> None:
        super().__init__(f"several runs begin with {run!r}: write more of the id")
        self.run = run


class VersionNotFoundError(DspexError):
    """The store has no such program, or no such version of it."""

    def __init__(self, program: str, version: int | None) -> None:
        which = "" if version is None else f" in version {version}"
        super().__init__(
            f"the store has no program {program!r}{which}: "
            "dspex programs list shows what it has"
        )
        self.program = program
        self.version = version
