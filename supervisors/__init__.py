"""Supervisors: child specs, restart strategies, and the tree they make."""

from dspex.supervisors.child_spec import ChildSpec, Supervise
from dspex.supervisors.dynamic import DynamicSupervisor
from dspex.supervisors.errors import (
    ChildAlreadyStartedError,
    ChildNotFoundError,
    ChildPresentError,
    ChildRestartingError,
    ChildRunningError,
    ChildSpecError,
    ChildStartError,
    FailedToStartChild,
    MaxChildrenError,
    SimpleOneForOneError,
    SupervisorError,
)
from dspex.supervisors.supervisor import ChildCount, ChildInfo, Supervisor
from dspex.supervisors.tree import TreeNode, supervision_tree

__all__ = [
    "ChildAlreadyStartedError",
    "ChildCount",
    "ChildInfo",
    "ChildNotFoundError",
    "ChildPresentError",
    "ChildRestartingError",
    "ChildRunningError",
    "ChildSpec",
    "ChildSpecError",
    "ChildStartError",
    "DynamicSupervisor",
    "FailedToStartChild",
    "MaxChildrenError",
    "SimpleOneForOneError",
    "Supervise",
    "Supervisor",
    "SupervisorError",
    "TreeNode",
    "supervision_tree",
]
