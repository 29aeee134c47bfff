"""Fault plans: what goes wrong, for whom and when, as data that replays exactly."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from fnmatch import fnmatchcase
from pathlib import Path
from random import Random
from typing import Any, Final, Literal, Self, TypeAlias, cast, get_args

import yaml

from dspex.runtime.errors import DspexError

FaultKind: TypeAlias = Literal[
    "crash", "hang", "kill", "slow", "drop", "duplicate", "reorder", "full"
]
KINDS: Final[tuple[str, ...]] = get_args(FaultKind)


class FaultPlanError(DspexError):
    """A plan cannot be used as written: which fault, which value, what is allowed."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that goes wrong with messages to actors.

    - `crash`: the handler raises `InjectedCrashError`
    - `hang`: the handler never ends
    - `kill`: the actor is killed as the message arrives
    - `slow`: the message arrives `seconds` later
    - `drop`: the message never arrives
    - `duplicate`: it arrives twice; of a call, the second answer is dropped
    - `reorder`: it arrives after the next message (or after `seconds`)
    - `full`: the mailbox has no room: `*_nowait` raises, a call waits `seconds`

    `actor` and `method` are patterns of names (`*`, `?`, `[...]`); plain messages have
    the method "info". Among the messages that match, `nth` (from 1) and the `times - 1`
    after it are hit, or with `probability` each one, by the plan's seed. Only messages
    from `after` to `until` seconds count, on trio's clock from the injection on.

    Raises:
        FaultPlanError: a value is not one of the allowed ones.
    """

    kind: FaultKind
    actor: str = "*"
    method: str = "*"
    nth: int | None = None
    times: int = 1
    probability: float | None = None
    seconds: float = 1.0
    after: float = 0.0
    until: float = math.inf

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise FaultPlanError(f"fault {self.kind!r}: allowed: {', '.join(KINDS)}")
        if self.nth is not None and self.nth < 1:
            raise FaultPlanError(f"fault {self.kind}: nth={self.nth} is below 1")
        if self.times < 1:
            raise FaultPlanError(f"fault {self.kind}: times={self.times} is below 1")
        if self.probability is not None and not 0 <= self.probability <= 1:
            raise FaultPlanError(
                f"fault {self.kind}: probability={self.probability} is not 0 to 1"
            )
        if self.nth is not None and self.probability is not None:
            raise FaultPlanError(f"fault {self.kind}: nth and probability: not both")

    def matches(self, actor: str, method: str, *, now: float) -> bool:
        """Whether a message counts for this fault."""
        return (
            self.after <= now <= self.until
            and fnmatchcase(actor, self.actor)
            and fnmatchcase(method, self.method)
        )

    def hits(self, count: int, *, seed: int, index: int) -> bool:
        """Whether the `count`-th message that matches is hit; always the same."""
        if self.probability is not None:
            return Random(f"{seed}/{index}/{count}").random() < self.probability
        first = self.nth or 1
        return first <= count < first + self.times

    def to_data(self) -> dict[str, Any]:  # Any: YAML
        """Give what differs from the defaults."""
        return {
            it.name: getattr(self, it.name)
            for it in fields(self)
            if it.name == "kind" or getattr(self, it.name) != it.default
        }

    def __str__(self) -> str:
        facts = self.to_data()
        kind = facts.pop("kind")
        return " ".join([kind, *(f"{name}={value}" for name, value in facts.items())])


@dataclass(frozen=True, slots=True)
class FaultPlan:
    """Faults and the seed of their chances; equal plans do equal harm."""

    faults: tuple[Fault, ...] = ()
    seed: int = 0

    @classmethod
    def of(cls, *faults: Fault, seed: int = 0) -> Self:
        """Make a plan of these faults."""
        return cls(faults, seed)

    @classmethod
    def from_yaml(cls, text: str) -> Self:
        """Read what `to_yaml` writes.

        Raises:
            FaultPlanError: it is not a plan.
        """
        try:
            data: object = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise FaultPlanError(f"the plan is not YAML: {error}") from error
        if not isinstance(data, dict):
            raise FaultPlanError("a plan is a mapping with seed and faults")
        plan = cast("dict[str, Any]", data)  # Any: YAML
        unknown = plan.keys() - {"seed", "faults"}
        if unknown:
            raise FaultPlanError(f"a plan has seed and faults, not {sorted(unknown)}")
        listed: list[object] = plan.get("faults") or []
        return cls(tuple(_fault(it) for it in listed), int(plan.get("seed", 0)))

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read a plan from a YAML file.

        Raises:
            FaultPlanError: no such file, or not a plan.
        """
        try:
            return cls.from_yaml(Path(path).read_text(encoding="utf-8"))
        except OSError as error:
            raise FaultPlanError(f"{path}: cannot read: {error.strerror}") from error

    def to_yaml(self) -> str:
        """Give the plan as text that `from_yaml` reads."""
        data = {"seed": self.seed, "faults": [it.to_data() for it in self.faults]}
        return yaml.safe_dump(data, sort_keys=False)

    def __str__(self) -> str:
        listed = "\n".join(f"  {it}" for it in self.faults) or "  nothing"
        return f"plan with seed {self.seed}:\n{listed}"


def _fault(data: object) -> Fault:
    if not isinstance(data, Mapping):
        raise FaultPlanError(f"a fault is a mapping with a kind, not {data!r}")
    facts = dict(cast("Mapping[str, Any]", data))  # Any: YAML
    known = {it.name for it in fields(Fault)}
    unknown = facts.keys() - known
    if unknown or "kind" not in facts:
        raise FaultPlanError(
            f"a fault has a kind and of {', '.join(sorted(known))}; got {sorted(facts)}"
        )
    return Fault(**facts)


@dataclass(frozen=True, slots=True)
class Injected:
    """One thing that was done: which fault, to whom, to which message."""

    at: float
    kind: FaultKind
    actor: str
    method: str
    count: int = field(default=1)

    def __str__(self) -> str:
        return f"{self.at:.3f} s: {self.kind} {self.actor}.{self.method} #{self.count}"
