"""Fault plans: what goes wrong, for whom and when, as data that replays exactly."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from fnmatch import fnmatchcase
from pathlib import Path
from random import Random
from typing import Any, ClassVar, Final, Literal, Self, TypeAlias, cast

import yaml

from dspex.runtime.errors import DspexError

FaultKind: TypeAlias = Literal[
    "crash", "hang", "kill", "slow", "drop", "duplicate", "reorder", "full",
    "stop", "leak", "fail", "reset", "drip", "truncate", "garbage", "lock",
    "jump", "skew",
]  # fmt: skip
FaultTarget: TypeAlias = Literal["actor", "process", "model", "store", "clock"]

KINDS: Final[Mapping[FaultTarget, tuple[FaultKind, ...]]] = {
    "actor": (
        "crash", "hang", "kill", "slow", "drop", "duplicate", "reorder", "full"
    ),
    "process": ("kill", "stop", "leak"),
    "model": ("fail", "slow", "hang", "reset", "drip", "truncate", "garbage"),
    "store": ("full", "lock", "slow"),
    "clock": ("jump", "skew"),
}  # fmt: skip
"""What can go wrong with each target."""


class FaultPlanError(DspexError):
    """A plan cannot be used as written: which fault, which value, what is allowed."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that goes wrong, with what `on` names.

    With a message to an actor (`on="actor"`, the default):

    - `crash`: the handler raises `InjectedCrashError`
    - `hang`: the handler never ends
    - `kill`: the actor is killed as the message arrives
    - `slow`: the message arrives `seconds` later
    - `drop`: the message never arrives
    - `duplicate`: it arrives twice; of a call, the second answer is dropped
    - `reorder`: it arrives after the next message (or after `seconds`)
    - `full`: the mailbox has no room: `*_nowait` raises, a call waits `seconds`

    With a child process of this one, or a child's child (`on="process"`): `kill` and
    `stop` (for `seconds`, then it goes on) are SIGKILL and SIGSTOP; `leak` kills it
    and leaves a process behind that holds its stdout and stderr open.

    With a model call (`on="model"`): `fail` with `status`, `slow` and `drip` by
    `seconds`, `hang`, `reset`, `truncate`, `garbage`. With a commit of the store
    (`on="store"`): `full`, `lock` by another connection for `seconds`, and `slow`, a
    disk that takes `seconds` to sync. With the wall clock (`on="clock"`): `jump` by
    `seconds`, `skew` by `seconds` each second, until `until`.

    `actor` and `method` are patterns of names (`*`, `?`, `[...]`); plain messages have
    the method "info". `target` is a pattern, too: of the model's name, or of a
    process's command line. Among the messages (model calls, commits) that match, `nth`
    (from 1) and the `times - 1` after it are hit, or with `probability` each one, by
    the plan's seed. Only those from `after` to `until` seconds count, on trio's clock
    from the injection on.

    Processes and the clock are hit by time: at `after` seconds, or, with `every`,
    again and again, each time with `probability`. With `nth` it is a message that
    hits them: the n-th that `actor` and `method` match.

    Raises:
        FaultPlanError: a value is not one of the allowed ones.
    """

    kind: FaultKind
    actor: str = "*"
    method: str = "*"
    on: FaultTarget = "actor"
    target: str = "*"
    nth: int | None = None
    times: int = 1
    probability: float | None = None
    every: float | None = None
    seconds: float = 1.0
    status: int = 500
    after: float = 0.0
    until: float = math.inf

    def __post_init__(self) -> None:
        if self.on not in KINDS:
            raise FaultPlanError(f"on {self.on!r}: allowed: {', '.join(KINDS)}")
        if self.kind not in KINDS[self.on]:
            allowed = ", ".join(KINDS[self.on])
            raise FaultPlanError(
                f"fault {self.kind!r} on {self.on}: allowed: {allowed}"
            )
        for name, type_ in _TYPES.items():
            value = getattr(self, name)
            if not isinstance(value, type_) or isinstance(value, bool):
                raise self._wrong(name, "is not of the right type")
        if self.nth is not None and self.nth < 1:
            raise self._wrong("nth", "is below 1")
        if self.times < 1:
            raise self._wrong("times", "is below 1")
        if self.probability is not None and not 0 <= self.probability <= 1:
            raise self._wrong("probability", "is not 0 to 1")
        if self.nth is not None and self.probability is not None:
            raise FaultPlanError(f"fault {self.kind}: nth and probability: not both")
        if self.seconds < 0 and self.on != "clock":
            raise self._wrong("seconds", "is below 0")
        if not 0 <= self.after <= self.until:
            raise self._wrong("after", f"is not between 0 and until={self.until}")
        if not 400 <= self.status <= 599:
            raise self._wrong("status", "is not 400 to 599")
        if self.every is not None:
            if self.on != "process" or self.nth is not None:
                raise self._wrong("every", "is for processes, and without nth")
            if self.every <= 0:
                raise self._wrong("every", "is not above 0")
        elif self.on in ("process", "clock") and self.probability is not None:
            raise self._wrong("probability", f"on {self.on} needs every")
        for name in _unused(self.on):
            if getattr(self, name) != "*":
                raise self._wrong(name, f"says nothing about a {self.on}")

    def _wrong(self, name: str, problem: str) -> FaultPlanError:
        value = getattr(self, name)
        return FaultPlanError(f"fault {self.kind}: {name}={value!r} {problem}")

    @property
    def is_timed(self) -> bool:
        """Whether it comes by time, not by a message, a model call or a commit."""
        return self.on in ("process", "clock") and self.nth is None

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
        if self.every is not None:
            return True
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


_NUMBER: Final = (int, float)
_TYPES: Final[Mapping[str, Any]] = {  # Any: as isinstance takes it
    "actor": str,
    "method": str,
    "target": str,
    "nth": (int, type(None)),
    "times": int,
    "probability": (*_NUMBER, type(None)),
    "every": (*_NUMBER, type(None)),
    "seconds": _NUMBER,
    "status": int,
    "after": _NUMBER,
    "until": _NUMBER,
}


def _unused(on: FaultTarget) -> tuple[str, ...]:
    match on:
        case "actor":
            return ("target",)
        case "model":
            return ("actor", "method")
        case "store":
            return ("actor", "method", "target")
        case "clock":
            return ("target",)
        case _:
            return ()


@dataclass(frozen=True, slots=True)
class FaultPlan:
    """Faults and the seed of their chances; equal plans do equal harm."""

    NEVER: ClassVar = Fault("slow", after=math.inf)
    """A fault that keeps the place of another, and so the chances of those after it."""

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
            raise FaultPlanError(
                f"a plan has seed and faults, not {sorted(map(str, unknown))}"
            )
        listed: object = plan.get("faults") or []
        seed: object = plan.get("seed", 0)
        if not isinstance(listed, list):
            raise FaultPlanError(f"the faults of a plan are a list, not {listed!r}")
        if not isinstance(seed, int) or isinstance(seed, bool):
            raise FaultPlanError(f"the seed of a plan is a whole number, not {seed!r}")
        return cls(tuple(_fault(it) for it in cast("list[object]", listed)), seed)

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
        except UnicodeDecodeError as error:
            raise FaultPlanError(f"{path}: is not UTF-8 text") from error
        except FaultPlanError as error:
            raise FaultPlanError(f"{path}: {error}") from error

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
    # The word `on` is the truth value in YAML 1.1.
    facts = {"on" if it is cast("str", True) else it: facts[it] for it in facts}
    known = {it.name for it in fields(Fault)}
    unknown = facts.keys() - known
    if unknown or "kind" not in facts:
        raise FaultPlanError(
            f"a fault has a kind and of {', '.join(sorted(known))}; "
            f"got {sorted(map(str, facts))}"
        )
    return Fault(**facts)


@dataclass(frozen=True, slots=True)
class Injected:
    """One thing that was done: which fault, to whom, to which message.

    For a model `actor` is its name, for a process its command line and `method` its
    pid.
    """

    at: float
    kind: FaultKind
    actor: str
    method: str
    count: int = field(default=1)
    on: FaultTarget = "actor"

    def to_data(self) -> dict[str, Any]:  # Any: JSON
        """Give plain data."""
        return asdict(self)

    def __str__(self) -> str:
        text = f"{self.at:.3f} s: {self.kind} {self.actor}.{self.method} #{self.count}"
        return text if self.on == "actor" else f"{text} ({self.on})"
