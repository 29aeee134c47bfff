"""The steps of a reasoning: what a model wrote, as a list."""

import re
from dataclasses import dataclass
from typing import Final

_NUMBERED: Final = re.compile(r"(?:step\s+)?\d{1,3}\s*[.):]\s+", re.IGNORECASE)
_STEP: Final = re.compile(
    r"(?:\*\*)?step\s+\d{1,3}\s*[.:)\-]*(?:\*\*)?\s*", re.IGNORECASE
)
_BULLET: Final = re.compile(r"[-*\u2022]\s+")
_ORDINAL: Final = re.compile(
    r"(?:first|firstly|second|secondly|third|thirdly|fourth|fifth|next|then|after that|"
    r"finally|lastly|therefore|thus|hence|so|consequently)\b\s*,\s*",
    re.IGNORECASE,
)
_SENTENCE_ORDINAL: Final = re.compile(
    r"(?<=[.!?])\s+(?=(?:first|second|third|fourth|next|then|finally|lastly)(?:ly)?\s*,)",
    re.IGNORECASE,
)


def split_steps(reasoning: str) -> tuple[str, ...]:
    """Split a reasoning into its steps, without their marks.

    Known are `1.` and `1)`, `Step 1:`, bullets, `First, ...` and paragraphs, in this
    order; a line without mark goes on with the step before it. Prose without any marks
    is one step, and an empty text none.
    """
    lines = [line.strip() for line in reasoning.strip().splitlines()]
    for mark in (_STEP, _NUMBERED, _BULLET):
        if sum(1 for line in lines if mark.match(line)) >= 1:
            return _by_mark(lines, mark, keep=False)
    if sum(1 for line in lines if _ORDINAL.match(line)) >= 2:
        return _by_mark(lines, _ORDINAL, keep=True)
    paragraphs = [" ".join(p.split()) for p in re.split(r"\n\s*\n", reasoning.strip())]
    if len(paragraphs) > 1:
        return tuple(paragraph for paragraph in paragraphs if paragraph)
    prose = " ".join(reasoning.split())
    return tuple(part for part in _SENTENCE_ORDINAL.split(prose) if part)


def _by_mark(lines: list[str], mark: re.Pattern[str], *, keep: bool) -> tuple[str, ...]:
    steps: list[list[str]] = []
    for line in lines:
        match = mark.match(line)
        if match is not None:
            steps.append([line if keep else line[match.end() :]])
        elif not line:
            continue
        elif steps:
            steps[-1].append(line)
        else:
            # What stands before the first mark introduces it and is no step.
            continue
    return tuple(" ".join(part for part in step if part) for step in steps)


@dataclass(frozen=True, slots=True)
class StepValidator:
    """Splits a reasoning into steps and tells whether there are enough, or too many."""

    min_steps: int = 0
    max_steps: int | None = None

    def steps(self, reasoning: str) -> tuple[str, ...]:
        """Give the steps of a reasoning; see `split_steps`."""
        return split_steps(reasoning)

    def problem(self, reasoning: str) -> str | None:
        """Say what is wrong with the number of steps; None when nothing is."""
        count = len(self.steps(reasoning))
        if count < self.min_steps:
            return f"the reasoning has {count} steps, at least {self.min_steps} are due"
        if self.max_steps is not None and count > self.max_steps:
            return f"the reasoning has {count} steps, at most {self.max_steps} may be"
        return None
