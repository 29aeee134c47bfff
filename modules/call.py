"""A call: one run of a module, and what it shares with the calls inside it.

The current call is found by a context variable, so that a user's `forward` does not
have to hand it on. Tasks that a forward starts in its own nursery inherit it. Nothing
of a call is kept on a module: concurrent calls of one module share nothing.
"""

import uuid
from collections.abc import Callable, Generator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TypeAlias

from dspex.modules.errors import Attempt
from dspex.providers.lm import LM
from dspex.providers.messages import Usage

# Puts something before a model: a journal, a limiter, a recorder.
WrapLM: TypeAlias = Callable[[LM], LM]


@dataclass(slots=True)
class Call:
    """What one run of a module knows: its model, its trace id, what it took so far."""

    lm: LM | None = None
    wrap_lm: WrapLM | None = None
    trace_id: str = field(default_factory=lambda: uuid.uuid4().hex)
    parent: "Call | None" = None
    usage: Usage = field(default_factory=Usage)
    attempts: list[Attempt] = field(default_factory=list[Attempt])

    def add_usage(self, usage: Usage) -> None:
        """Count what a model call took, in this call and in those around it."""
        call: Call | None = self
        while call is not None:
            call.usage += usage
            call = call.parent


_CURRENT: ContextVar[Call | None] = ContextVar("dspex_call", default=None)


def current_call() -> Call | None:
    """Give the call this code runs in; None outside of any."""
    return _CURRENT.get()


@contextmanager
def enter_call(
    *, lm: LM | None = None, wrap_lm: WrapLM | None = None
) -> Generator[Call]:
    """Run a block as a call inside the current one; what is None is inherited."""
    parent = _CURRENT.get()
    if parent is None:
        call = Call(lm=lm, wrap_lm=wrap_lm)
    else:
        call = Call(
            lm=lm or parent.lm,
            wrap_lm=wrap_lm or parent.wrap_lm,
            trace_id=parent.trace_id,
            parent=parent,
        )
    token = _CURRENT.set(call)
    try:
        yield call
    finally:
        _CURRENT.reset(token)
