"""Errors of a runtime, and of one inside another program.

DspexError
├── RuntimeStoppedError       its supervision tree gave up
├── ProgramNotFoundError      no program of that name is loaded
├── NoStoreError              what was asked for needs a store
└── EmbeddingError            the runtime cannot be used from here
    ├── RuntimeClosedError    it is closing, closed, or has given up
    ├── ForkedRuntimeError    it stayed behind in the parent process
    ├── WrongLoopError        it belongs to another event loop
    └── OwnThreadError        it was asked to wait for itself
"""

from dspex.runtime.errors import DspexError
from dspex.runtime.reasons import describe


class RuntimeStoppedError(DspexError):
    """The supervision tree gave up: a child died more often than it may."""

    def __init__(self, reason: object) -> None:
        super().__init__(
            f"the runtime stopped ({describe(reason)}): "
            "the log tells which child died too often, and why"
        )
        self.reason = reason


class ProgramNotFoundError(DspexError):
    """No program of this name is loaded."""

    def __init__(self, name: str, known: tuple[str, ...]) -> None:
        super().__init__(
            f"no program is named {name!r}; loaded are: {', '.join(known) or 'none'}"
        )
        self.name = name


class NoStoreError(DspexError):
    """What was asked for needs a store, and the runtime has none."""

    def __init__(self, what: str) -> None:
        super().__init__(f"{what} needs a store: open_runtime(store='runs.db')")


class EmbeddingError(DspexError):
    """The embedded runtime cannot be used from here."""


class RuntimeClosedError(EmbeddingError):
    """The runtime is closing or closed; `__cause__` tells if it ended by itself."""

    def __init__(self, cause: BaseException | None = None) -> None:
        why = "" if cause is None else f" ({describe(cause)})"
        super().__init__(f"the runtime is closed{why}: use it inside its `with` block")
        self.__cause__ = cause


class ForkedRuntimeError(EmbeddingError):
    """The process has forked since the runtime was opened; threads don't follow."""

    def __init__(self, opened_in: int, here: int) -> None:
        super().__init__(
            f"the runtime was opened in process {opened_in} and this is {here}, "
            "forked from it: open the runtime after the fork, in each worker"
        )
        self.opened_in = opened_in
        self.here = here


class WrongLoopError(EmbeddingError):
    """The runtime was opened under another asyncio event loop."""

    def __init__(self) -> None:
        super().__init__(
            "the runtime was opened under another asyncio event loop: "
            "open one for each loop, in the lifespan of its service"
        )


class OwnThreadError(EmbeddingError):
    """A synchronous call came from the runtime's own thread, which it would block."""

    def __init__(self) -> None:
        super().__init__(
            "a synchronous call from the runtime's own thread would wait for itself: "
            "use the methods of the Runtime there, with await"
        )
