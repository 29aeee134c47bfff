"""Supervisors: child specs, restart strategies, and the tree they make."""

from dspex.supervisors.child_spec import Backoff, ChildSpec, Supervise
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
from dspex.supervisors.partition import PartitionSupervisor, partition_name
from dspex.supervisors.supervisor import ChildCount, ChildInfo, Supervisor
from dspex.supervisors.task import (
    StreamedExit,
    Task,
    TaskExitedError,
    TaskSupervisor,
    TaskTimeoutError,
    async_,
    async_nolink,
    async_stream,
    await_,
)
from dspex.supervisors.tree import TreeNode, supervision_tree

__all__ = [
    "Backoff",
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
    "PartitionSupervisor",
    "SimpleOneForOneError",
    "StreamedExit",
    "Supervise",
    "Supervisor",
    "SupervisorError",
    "Task",
    "TaskExitedError",
    "TaskSupervisor",
    "TaskTimeoutError",
    "TreeNode",
    "async_",
    "async_nolink",
    "async_stream",
    "await_",
    "partition_name",
    "supervision_tree",
]
