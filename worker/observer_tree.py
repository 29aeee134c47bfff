"""Observer tree: the supervision tree as rows, the troubled ones first where many are.

A supervisor with very many children shows some and counts the rest, so that a page
stays small whatever runs.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Final, Literal

import trio

from dspex.runtime import ActorRef
from dspex.supervisors import Supervisor
from dspex.supervisors.supervisor import ChildInfo

AnyRef = ActorRef[Any]  # Any: of any class

MOST_CHILDREN: Final = 50
OPEN_CHILDREN: Final = 20
_LOOKED_AT: Final = 2_000
_WARN_AT: Final = 0.5
_FULL: Final = 1_000.0

Level = Literal["", "warn", "critical"]


@dataclass(frozen=True, slots=True)
class Row:
    """An actor, and what is under it.

    Of its mailbox's `capacity`, `depth` messages lie inside and `high_water` once did;
    `waiting` senders have no room. A supervisor has restarted `recent` times of the
    `intensity` that it allows in `period` seconds. `hidden` of its children are not
    among `children`.
    """

    name: str
    kind: str
    id: int | None
    state: str
    depth: int = 0
    high_water: int = 0
    capacity: int = 0
    waiting: int = 0
    restarts: int = 0
    recent: int = 0
    intensity: int = 0
    period: float = 0.0
    is_supervisor: bool = False
    hidden: int = 0
    children: tuple["Row", ...] = ()

    @property
    def is_open(self) -> bool:
        """Whether its children are shown unasked."""
        return len(self.children) <= OPEN_CHILDREN or self.is_troubled

    @property
    def level(self) -> Level:
        """How near a supervisor is to giving up."""
        if not self.is_supervisor or not self.recent:
            return ""
        if self.recent >= self.intensity:
            return "critical"
        return "warn" if self.recent >= _WARN_AT * self.intensity else ""

    @property
    def mailbox_level(self) -> Level:
        """How near the mailbox is to full."""
        if not self.capacity or self.depth < _WARN_AT * self.capacity:
            return ""
        return "critical" if self.depth >= self.capacity else "warn"

    @property
    def is_troubled(self) -> bool:
        """Whether an operator should look at it, or at something below."""
        own = self.state != "running" or bool(self.level or self.mailbox_level)
        return own or any(child.is_troubled for child in self.children)

    def share(self, part: float) -> float:
        """Give `part` of the capacity as thousandths of a bar; a little is seen."""
        if not part or not self.capacity:
            return 0.0
        return max(40.0, min(_FULL, round(_FULL * part / self.capacity, 1)))

    def to_json(self) -> dict[str, Any]:  # Any: JSON
        """Give plain data, for `dspex top`; `id` is what its actions are called by."""
        return {
            "name": self.name,
            "id": self.id,
            "kind": self.kind,
            "state": self.state,
            "depth": self.depth,
            "high_water": self.high_water,
            "capacity": self.capacity,
            "waiting": self.waiting,
            "restarts": self.restarts,
            "recent": self.recent,
            "intensity": self.intensity,
            "period": self.period,
            "is_supervisor": self.is_supervisor,
            "level": self.level,
            "mailbox_level": self.mailbox_level,
            "hidden": self.hidden,
            "children": [child.to_json() for child in self.children],
        }


def read_tree(ref: AnyRef, *, restarts: int = 0) -> Row:
    """Give the row of an actor, with those of what is under it."""
    actor, mailbox = ref.port.actor, ref.mailbox
    row = Row(
        ref.name,
        "worker",
        ref.id,
        ref.state,
        mailbox.depth,
        mailbox.high_water,
        mailbox.capacity,
        mailbox.waiting_senders,
        restarts,
    )
    if not isinstance(actor, Supervisor):
        rows, hidden = _some([read_tree(child) for child in ref.port.children()])
        return replace(row, kind=type(actor).__name__, children=rows, hidden=hidden)
    options = actor.decisions.options
    infos = actor.children_info()
    rows, hidden = _some([_child(info) for info in infos[:_LOOKED_AT]])
    return replace(
        row,
        kind=options.strategy,
        recent=actor.decisions.restarts_since(trio.current_time()),
        intensity=options.intensity,
        period=options.period,
        is_supervisor=True,
        children=rows,
        hidden=hidden + len(infos[_LOOKED_AT:]),
    )


def _child(info: ChildInfo) -> Row:
    if info.ref is not None:
        return read_tree(info.ref, restarts=info.restarts)
    return Row(info.id, info.type, None, info.state, restarts=info.restarts)


def _some(rows: list[Row]) -> tuple[tuple[Row, ...], int]:
    if len(rows) <= MOST_CHILDREN:
        return tuple(rows), 0
    rows.sort(key=lambda it: (not it.is_troubled, -it.depth, -it.restarts))
    return tuple(rows[:MOST_CHILDREN]), len(rows) - MOST_CHILDREN


def flatten(row: Row, indent: int = 0) -> Iterator[tuple[int, Row]]:
    """Give a row and all below it with their depths in the tree."""
    yield indent, row
    for child in row.children:
        yield from flatten(child, indent + 1)
