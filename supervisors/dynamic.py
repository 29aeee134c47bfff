"""DynamicSupervisor: children that come and go, started on demand."""

from dspex.supervisors.child_spec import AutoShutdown, Supervise
from dspex.supervisors.supervisor import Supervisor


class DynamicSupervisor(Supervisor):
    """Keeps any number of children, started one by one with `start_child(spec)`.

    Children are independent of each other, have no order, may share an id and are
    addressed by their ref. It stops them all at once.
    """

    def __init__(
        self,
        *,
        intensity: int = 1,
        period: float = 5.0,
        auto_shutdown: AutoShutdown = "never",
        max_children: int | None = None,
    ) -> None:
        self._options = Supervise(
            (),
            strategy="simple_one_for_one",
            intensity=intensity,
            period=period,
            auto_shutdown=auto_shutdown,
            max_children=max_children,
        )
