"""Supervision tree: a snapshot of who runs under whom, to print or to serve."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from dspex.runtime.node import Node
from dspex.runtime.ref import ActorRef
from dspex.supervisors.supervisor import Supervisor


@dataclass(frozen=True, slots=True)
class TreeNode:
    """One place of the tree: a child that runs, or one that is stopped.

    `state` is the actor's (starting, running, stopping) or, if none runs, the
    supervisor's word for it (undefined, restarting). `depth` counts the messages
    that wait in its mailbox.
    """

    name: str
    id: str
    type: Literal["worker", "supervisor"]
    state: str
    restarts: int
    depth: int
    children: tuple["TreeNode", ...] = ()

    def __str__(self) -> str:
        return "\n".join(self._lines("", ""))

    def _lines(self, first: str, rest: str) -> Iterator[str]:
        facts = [self.state]
        if self.restarts:
            facts.append(f"restarts={self.restarts}")
        if self.depth:
            facts.append(f"mailbox={self.depth}")
        label = self.name if self.name == self.id else f"{self.id} ({self.name})"
        yield f"{first}{label} [{', '.join(facts)}]"
        for index, child in enumerate(self.children):
            last = index == len(self.children) - 1
            yield from child._lines(
                rest + ("└── " if last else "├── "), rest + ("    " if last else "│   ")
            )


def supervision_tree(root: "Node | ActorRef[Any]") -> TreeNode:  # Any: of any class
    """Give the tree under a ref, or under everything a node started without parent.

    Takes a consistent snapshot without asking the actors, so it works while they
    are busy; call it from the thread the node runs in.
    """
    if isinstance(root, ActorRef):
        return _tree(root, root.name, 0)
    refs = [p.ref for p in root.processes() if p.parent is None]
    children = tuple(_tree(ref, ref.name, 0) for ref in refs)
    return TreeNode("node", "node", "supervisor", "running", 0, 0, children)


def _tree(ref: ActorRef[Any], id: str, restarts: int) -> TreeNode:  # Any: of any class
    actor = ref.port.actor
    kind: Literal["worker", "supervisor"] = "worker"
    children: tuple[TreeNode, ...] = ()
    if isinstance(actor, Supervisor):
        kind = "supervisor"
        children = tuple(
            _tree(child.ref, child.id, child.restarts)
            if child.ref is not None
            else TreeNode(
                child.id, child.id, child.type, child.state, child.restarts, 0
            )
            for child in actor.children_info()
        )
    else:  # what a worker has started for itself, such as a pool its processes
        children = tuple(_tree(c, c.name, 0) for c in ref.port.children())
    return TreeNode(
        ref.name, id, kind, ref.state, restarts, ref.mailbox.depth, children
    )
