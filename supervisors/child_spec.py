"""Child specs and a supervisor's options: data, checked when they are made."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, Literal, TypeAlias, cast

from dspex.runtime.actor import Actor, InitAnswer
from dspex.runtime.registry import Names
from dspex.supervisors.errors import ChildSpecError

Restart: TypeAlias = Literal["permanent", "transient", "temporary"]
ChildType: TypeAlias = Literal["worker", "supervisor"]
Shutdown: TypeAlias = float | Literal["brutal_kill", "infinity"]
Strategy: TypeAlias = Literal[
    "one_for_one", "one_for_all", "rest_for_one", "simple_one_for_one"
]
AutoShutdown: TypeAlias = Literal["never", "any_significant", "all_significant"]

RESTARTS: Final = ("permanent", "transient", "temporary")
TYPES: Final = ("worker", "supervisor")
STRATEGIES: Final = (
    "one_for_one",
    "one_for_all",
    "rest_for_one",
    "simple_one_for_one",
)
AUTO_SHUTDOWNS: Final = ("never", "any_significant", "all_significant")


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _check(child: object, name: str, value: object, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ChildSpecError(child, name, value, ", ".join(allowed))


def _type_made_by(start: Callable[..., Actor]) -> ChildType:
    # A function hides what it makes: the supervisor sees it at the first start.
    made_by: object = start
    while isinstance(made_by, partial):
        made_by = cast("partial[Actor]", made_by).func
    kind: ChildType = getattr(made_by, "actor_type", "worker")
    return kind


@dataclass(frozen=True, slots=True, init=False)
class ChildSpec:
    """How a supervisor starts, restarts and stops one child.

    `start(*args)` makes a fresh actor for each start, so a restarted child begins
    with clean state. `name`: what it is registered as at each start, in `registry`
    (OTP's `via`) or the node's own. `restart`: a permanent child always, a transient
    one after an abnormal end, a temporary one never. `shutdown`: seconds to end in
    before it is killed, "brutal_kill" or "infinity"; 5 seconds for a worker, infinity
    for a supervisor unless given. `significant`: see `auto_shutdown` of the supervisor.
    The words and defaults are OTP's.

    Raises:
        ChildSpecError: a value is not one of the allowed ones.
    """

    id: str
    start: Callable[..., Actor]
    args: tuple[Any, ...]  # Any: whatever `start` takes
    name: str | None
    registry: Names | None
    restart: Restart
    shutdown: Shutdown
    type: ChildType
    significant: bool
    _shutdown_given: bool

    def __init__(
        self,
        id: str,
        start: Callable[..., Actor],
        args: tuple[Any, ...] = (),  # Any: whatever `start` takes
        *,
        name: str | None = None,
        registry: Names | None = None,
        restart: Restart = "permanent",
        shutdown: Shutdown | None = None,
        type: ChildType | None = None,
        significant: bool = False,
    ) -> None:
        if not isinstance(id, str) or not id:  # pyright: ignore[reportUnnecessaryIsInstance]
            raise ChildSpecError(id, "id", id, "a name that is not empty")
        if not callable(start):
            raise ChildSpecError(
                id, "start", start, "a class or function that makes an actor"
            )
        if registry is not None and name is None:
            raise ChildSpecError(
                id, "name", name, "the name to have in the registry given"
            )
        kind = _type_made_by(start) if type is None else type
        shutdown_given = shutdown is not None
        if shutdown is None:
            shutdown = "infinity" if kind == "supervisor" else 5.0
        _check(id, "restart", restart, RESTARTS)
        _check(id, "type", kind, TYPES)
        if shutdown not in ("brutal_kill", "infinity") and not (
            _is_number(shutdown) and 0 <= float(shutdown) < math.inf
        ):
            raise ChildSpecError(
                id, "shutdown", shutdown, "seconds, brutal_kill, infinity"
            )
        set_field = object.__setattr__
        set_field(self, "id", id)
        set_field(self, "start", start)
        set_field(self, "args", args)
        set_field(self, "name", name)
        set_field(self, "registry", registry)
        set_field(self, "restart", restart)
        set_field(self, "shutdown", shutdown)
        set_field(self, "type", kind)
        set_field(self, "significant", significant)
        set_field(self, "_shutdown_given", shutdown_given)

    def as_supervisor(self) -> "ChildSpec":
        """Give the spec with what was not known before: it makes a supervisor."""
        return self._changed(type="supervisor")

    def renamed(self, id: str, name: str | None) -> "ChildSpec":
        """Give the spec with another id and name."""
        return self._changed(id=id, name=name)

    def with_arguments(self, extra: tuple[Any, ...]) -> "ChildSpec":  # Any: as `args`
        """Give the spec with more arguments behind its own."""
        return self._changed(args=(*self.args, *extra))

    def _changed(self, **changes: Any) -> "ChildSpec":  # Any: checked by __init__
        fields: dict[str, Any] = {  # Any: of all types
            "id": self.id,
            "start": self.start,
            "args": self.args,
            "name": self.name,
            "registry": self.registry,
            "restart": self.restart,
            "shutdown": self.shutdown if self._shutdown_given else None,
            "type": self.type,
            "significant": self.significant,
        }
        return ChildSpec(**fields | changes)

    @property
    def shutdown_seconds(self) -> float:
        """Seconds to wait before the kill: 0 for brutal_kill, inf for infinity."""
        if self.shutdown == "infinity":
            return math.inf
        return 0.0 if self.shutdown == "brutal_kill" else float(self.shutdown)


@dataclass(frozen=True, slots=True, kw_only=True)
class Backoff:
    """How long to wait before a restart: not at all in OTP, this much if given.

    The first restart within the supervisor's period waits `initial` seconds, each
    further one twice as long, never more than `maximum`; then up to `jitter` of it
    is taken away at random, so that many supervisors do not restart in step.

    Raises:
        ChildSpecError: a number is out of range.
    """

    initial: float = 0.1
    maximum: float = 30.0
    jitter: float = 0.2

    def __post_init__(self) -> None:
        if not 0 < self.initial <= self.maximum < math.inf:
            raise ChildSpecError(
                "supervisor", "backoff", self, "0 < initial <= maximum seconds"
            )
        if not 0 <= self.jitter <= 1:
            raise ChildSpecError("supervisor", "backoff", self, "0 <= jitter <= 1")

    def seconds(self, restarts: int, chance: float) -> float:
        """Give the wait before the restart of this number; `chance` is in 0..1."""
        full = min(self.maximum, self.initial * 2.0 ** min(restarts - 1, 64))
        return full * (1 - self.jitter * chance)


@dataclass(frozen=True, slots=True, init=False)
class Supervise(InitAnswer):
    """What a supervisor's `init` answers: its children and how to keep them.

    More than `intensity` restarts within `period` seconds end the supervisor with
    reason `shutdown`; its own supervisor decides what then.

    Raises:
        ChildSpecError: an option is not valid, or two children have one id.
    """

    children: tuple[ChildSpec, ...]
    strategy: Strategy
    intensity: int
    period: float
    auto_shutdown: AutoShutdown
    max_children: int | None
    backoff: Backoff | None

    def __init__(
        self,
        children: Iterable[ChildSpec],
        *,
        strategy: Strategy = "one_for_one",
        intensity: int = 1,
        period: float = 5.0,
        auto_shutdown: AutoShutdown = "never",
        max_children: int | None = None,
        backoff: Backoff | None = None,
    ) -> None:
        set_field = object.__setattr__
        set_field(self, "children", tuple(children))
        set_field(self, "strategy", strategy)
        set_field(self, "intensity", intensity)
        set_field(self, "period", period)
        set_field(self, "auto_shutdown", auto_shutdown)
        set_field(self, "max_children", max_children)
        set_field(self, "backoff", backoff)
        me = "supervisor"
        _check(me, "strategy", strategy, STRATEGIES)
        if not isinstance(intensity, int) or intensity < 0:  # pyright: ignore[reportUnnecessaryIsInstance]
            raise ChildSpecError(me, "intensity", intensity, "0 or more restarts")
        if not _is_number(period) or period <= 0:
            raise ChildSpecError(me, "period", period, "more than 0 seconds")
        _check(me, "auto_shutdown", auto_shutdown, AUTO_SHUTDOWNS)
        if max_children is not None and max_children < 1:
            raise ChildSpecError(me, "max_children", max_children, "1 or more")
        if self.is_simple and len(self.children) > 1:
            raise ChildSpecError(
                me, "children", [c.id for c in self.children], "one template"
            )
        ids: set[str] = set()
        for spec in self.children:
            self.check(spec)
            if spec.id in ids:
                raise ChildSpecError(spec.id, "id", spec.id, "a unique id")
            ids.add(spec.id)

    @property
    def is_simple(self) -> bool:
        """Whether children are started on demand and known by their ref."""
        return self.strategy == "simple_one_for_one"

    def check(self, spec: ChildSpec) -> None:
        """Raise ChildSpecError if `spec` cannot be a child under these options."""
        if spec.significant and self.auto_shutdown == "never":
            raise ChildSpecError(
                spec.id, "significant", True, "False under auto_shutdown=never"
            )
        if spec.significant and spec.restart == "permanent":
            raise ChildSpecError(
                spec.id, "significant", True, "False for a permanent child"
            )
