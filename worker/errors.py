"""Errors of a runtime inside another program.

DspexError
└── EmbeddingError            the runtime cannot be used from here
    ├── RuntimeClosedError    it is closing, closed, or has given up
    ├── ForkedRuntimeError    it stayed behind in the parent process
    ├── WrongLoopError        it belongs to another event loop
    └── OwnThreadError        it was asked to wait for itself
"""

from dspex.runtime.errors import DspexError
from dspex.runtime.reasons import describe


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
