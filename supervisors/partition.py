"""PartitionSupervisor: one worker many times, each key always to the same one."""

import zlib

from dspex.supervisors.child_spec import Backoff, ChildSpec, Supervise
from dspex.supervisors.errors import ChildSpecError
from dspex.supervisors.supervisor import Supervisor


class PartitionSupervisor(Supervisor):
    """Starts a named child spec `partitions` times, as `NAME-0`, `NAME-1`, ...

    So that one actor is no bottleneck. `partition_name(name, key, partitions)` gives
    the name of the one a key belongs to; `node.named(...)` makes a ref of it.

    Raises:
        ChildSpecError: the spec has no name, or there is no partition.
    """

    def __init__(
        self,
        spec: ChildSpec,
        *,
        partitions: int,
        intensity: int = 1,
        period: float = 5.0,
        backoff: Backoff | None = None,
    ) -> None:
        if spec.name is None:
            raise ChildSpecError(spec.id, "name", None, "a name to number")
        if partitions < 1:
            raise ChildSpecError(spec.id, "partitions", partitions, "1 or more")
        self._options = Supervise(
            [
                spec.renamed(f"{spec.id}-{number}", f"{spec.name}-{number}")
                for number in range(partitions)
            ],
            intensity=intensity,
            period=period,
            backoff=backoff,
        )


def partition_name(name: str, key: str, partitions: int) -> str:
    """Give the name of the partition a key belongs to; stable across processes."""
    return f"{name}-{zlib.crc32(key.encode()) % partitions}"
