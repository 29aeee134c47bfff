"""Pipes to a child process that is about to start."""

import os
from collections.abc import Generator
from contextlib import contextmanager
from typing import NamedTuple


class PipeEnds(NamedTuple):
    """The two ends of a pipe: one stays here, one goes to the child."""

    ours: int
    theirs: int


class ChildPipes:
    """The pipes of one child; made by `child_pipes`."""

    def __init__(self) -> None:
        self._made: list[PipeEnds] = []

    def to_child(self) -> PipeEnds:
        """Make a pipe that the child reads."""
        theirs, ours = os.pipe()
        return self._keep(PipeEnds(ours, theirs))

    def from_child(self) -> PipeEnds:
        """Make a pipe that the child writes."""
        return self._keep(PipeEnds(*os.pipe()))

    def _keep(self, ends: PipeEnds) -> PipeEnds:
        self._made.append(ends)
        return ends

    def close_ours(self) -> None:
        """Close the ends that would have stayed here."""
        for ends in self._made:
            os.close(ends.ours)

    def close_theirs(self) -> None:
        """Close the ends of the child, which has its own copies by now."""
        for ends in self._made:
            os.close(ends.theirs)


@contextmanager
def child_pipes() -> Generator[ChildPipes]:
    """Give pipes for the child that the block starts.

    After the block only our ends are open, and they are the caller's to close; when
    the block raises nothing is.
    """
    pipes = ChildPipes()
    try:
        yield pipes
    except BaseException:
        pipes.close_ours()
        raise
    finally:
        pipes.close_theirs()
