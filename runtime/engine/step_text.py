"""StepText: who hears the text of a step's outputs while it is written."""

from collections.abc import Sequence
from typing import Protocol


class StepText(Protocol):
    """Hears what a step with `options.stream` writes, for those who follow its run.

    What writes is a source: a model call, or a run of hosted code. A source that writes
    a field which another has written begins the step's text anew, and what the other
    still writes is passed by.
    """

    fields: Sequence[str]
    """The outputs whose text is heard."""

    def open(self) -> int:
        """Give the number of a new source."""
        ...

    def add(self, source: int, field: str, text: str) -> None:
        """Hear more text of a field."""
        ...
