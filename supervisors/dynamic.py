"""DynamicSupervisor: children that come and go, started on demand."""

from dspex.supervisors.child_spec import AutoShutdown, Backoff, ChildSpec, Supervise
from dspex.supervisors.supervisor import Supervisor


class DynamicSupervisor(Supervisor):
    """Keeps any number of children, started one by one with `start_child(spec)`.

    Children are independent of each other, have no order, may share an id and are
    addressed by their ref. It stops them all at once. With a `template`,
    `start_from_template(arguments)` starts one more of it: simple_one_for_one.
    """

    def __init__(
        self,
        *,
        intensity: int = 1,
        period: float = 5.0,
        auto_shutdown: AutoShutdown = "never",
        max_children: int | None = None,
        backoff: Backoff | None = None,
        template: ChildSpec | None = None,
    ) -> None:
        self._options = Supervise(
            () if template is None else (template,),
            strategy="simple_one_for_one",
            intensity=intensity,
            period=period,
            auto_shutdown=auto_shutdown,
            max_children=max_children,
            backoff=backoff,
        )
