"""What became of a case, and whether a difference is one we want."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

Status: TypeAlias = Literal["passed", "deviated", "failed"]
Kind: TypeAlias = Literal["reads more", "reads other", "enforces", "other", "any"]

FORGIVEN: Final = "forgiven:"

# What a note of the parser may excuse: only a difference of this kind.
_NOTES: Final[Mapping[str, Kind]] = {
    "empty-trainset": "other",
    "finish-arguments": "reads other",
    "choice-case": "reads more",
    "constraint": "enforces",
    "decorated-value": "reads more",
    "indented-marker": "any",
    "json-in-chat": "reads more",
    "json-in-xml": "reads more",
    "key-case": "reads more",
    "line-separator": "reads other",
    "loose-marker": "reads more",
    "loose-tags": "reads more",
    "markers-in-json": "reads more",
    "number-commas": "reads more",
    "repair-turn": "reads more",
    "repeated-failure": "any",
    "reserved-name": "reads more",
    "step-survived": "reads more",
    "thinking": "reads more",
    "text-in-tag": "reads more",
    "wrapped-json": "reads more",
}


@dataclass(frozen=True, slots=True)
class Difference:
    """How dspex and dspy differ on a case; `kind` says in which direction."""

    text: str
    kind: Kind = "other"


@dataclass(frozen=True, slots=True)
class Ran:
    """A case that was run: its difference, if any, and what the parser forgave."""

    case_id: str
    tags: Sequence[str] = ()
    difference: Difference | None = None
    notes: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Verdict:
    """The status of a case, and why."""

    case_id: str
    status: Status
    reason: str = ""
    entry: str | None = None


def judge(ran: Ran, deviations: Mapping[str, str]) -> Verdict:
    """Decide on a case by the listed deviations.

    An entry is a case's id, one of its tags, or `forgiven:NOTE`. The first two must
    differ, or the entry is out of date; the last excuses a difference where the parser
    says that it forgave this, and only in the direction that the note stands for.
    """
    listed = next((k for k in (ran.case_id, *ran.tags) if k in deviations), None)
    if ran.difference is None:
        if listed is None:
            return Verdict(ran.case_id, "passed")
        reason = f"listed as a deviation ({listed}), and there is none any more"
        return Verdict(ran.case_id, "failed", reason, listed)
    if listed is None:
        listed = next((k for k in _excuses(ran) if k in deviations), None)
    if listed is None:
        return Verdict(ran.case_id, "failed", ran.difference.text)
    reason = f"{deviations[listed]} [{ran.difference.text}]"
    return Verdict(ran.case_id, "deviated", reason, listed)


def _excuses(ran: Ran) -> list[str]:
    kind = ran.difference.kind if ran.difference else "other"
    return [
        FORGIVEN + note
        for note in dict.fromkeys(ran.notes)
        if _NOTES.get(note) in (kind, "any")
    ]
