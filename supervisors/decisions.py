"""Decisions: what a supervisor does about each event, without doing it.

Sans-I/O: each event is a method that yields actions (start, stop, retry, report)
and is sent their outcomes; a shell performs them one after the other, as OTP's
supervisor does in its own loop. The rules are `supervisor.erl`'s.
"""

import itertools
import math
import random
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

from dspex.runtime.reasons import SHUTDOWN, ExitReason, is_orderly
from dspex.runtime.reasons import Shutdown as OrderlyExit
from dspex.supervisors.actions import (
    Child,
    Failed,
    Halt,
    Ignored,
    Report,
    Retry,
    Start,
    Started,
    Steps,
    Stop,
    StopTogether,
)
from dspex.supervisors.child_spec import ChildSpec, Supervise
from dspex.supervisors.errors import (
    ChildAlreadyStartedError,
    ChildNotFoundError,
    ChildPresentError,
    ChildRestartingError,
    ChildRunningError,
    ChildStartError,
    FailedToStartChild,
    MaxChildrenError,
    SimpleOneForOneError,
)

Pid = Any  # Any: a ref to the shell, an opaque key here


class Decisions:
    """The state of one supervisor: its children in start order, its restarts."""

    def __init__(
        self, options: Supervise, *, chance: Callable[[], float] = random.random
    ) -> None:
        self.options = options
        self._chance = chance
        self.template: ChildSpec | None = None
        self._children: dict[object, Child] = {}
        self._by_pid: dict[Pid, Child] = {}
        self._numbers = itertools.count()
        self._restarts: deque[float] = deque()
        if options.is_simple:
            if options.children:
                self.template = options.children[0]
        else:
            for spec in options.children:
                self._children[spec.id] = Child(spec.id, spec)

    @property
    def children(self) -> Iterable[Child]:
        """The children in start order."""
        return self._children.values()

    # Start and stop of the supervisor itself.

    def start(self) -> Steps[Halt | None]:
        """Start every child in order; on a failure stop them and halt."""
        for child in list(self._children.values()):
            failed = yield from self._start(child)
            if failed is not None:
                yield Report("child_start_failed", child, failed.reason, "give up")
                yield from self.stop()
                detail = FailedToStartChild(child.spec.id, failed.reason)
                return Halt(OrderlyExit(detail))
        return None

    def stop(self) -> Steps[None]:
        """Stop every child: in reverse start order, or all at once if simple."""
        if self.options.is_simple:
            running = [c for c in self._children.values() if c.state == "running"]
            self._children.clear()
            self._by_pid.clear()
            if running:
                yield StopTogether(running)
            return
        for child in reversed(list(self._children.values())):
            yield from self._stop(child)

    # A child ended, or its restart has to be tried again.

    def child_exited(
        self, pid: Pid, reason: ExitReason, *, now: float
    ) -> Steps[Halt | None]:
        """Restart the child, or let it be; halt when that happens too often."""
        child = self._by_pid.get(pid)
        if child is None or child.state != "running":
            return None
        spec = child.spec
        orderly = is_orderly(reason)
        if spec.restart == "permanent" or (spec.restart == "transient" and not orderly):
            yield Report("child_exited", child, reason, "restart")
            return (yield from self._restart(child, reason, now))
        if not orderly:
            yield Report("child_exited", child, reason, "drop")
        self._set_down(child)
        return self._auto_shutdown(child)

    def retry(self, retry: Retry, *, now: float) -> Steps[Halt | None]:
        """Try a failed or delayed restart (again), if it is still wanted."""
        child = retry.child
        if child.state != "restarting" or self._children.get(child.key) is not child:
            return None
        if retry.seconds > 0:
            if retry.attempt == child.restarts:
                yield from self._restart_now(child)
            return None
        return (yield from self._restart(child, None, now))

    def _restart(
        self, child: Child, reason: ExitReason, now: float
    ) -> Steps[Halt | None]:
        if not self._may_restart(now):
            yield Report("restart_intensity_reached", child, reason, "shut down")
            self._set_down(child)
            return Halt(SHUTDOWN)
        child.restarts += 1
        backoff = self.options.backoff
        if backoff is None:
            yield from self._restart_now(child)
        else:
            self._set_restarting(child)
            seconds = backoff.seconds(len(self._restarts), self._chance())
            yield Retry(child, seconds, child.restarts)
        return None

    def _restart_now(self, child: Child) -> Steps[None]:
        strategy = self.options.strategy
        if strategy in ("one_for_one", "simple_one_for_one"):
            yield from self._start_again(child)
            return
        group = list(self._children.values())
        if strategy == "rest_for_one":
            group = group[group.index(child) :]
        child.state = "undefined"
        self._by_pid.pop(child.pid, None)
        for sibling in reversed(group):
            yield from self._stop(sibling)
            if sibling.spec.restart == "temporary":
                self._drop(sibling)
        for sibling in group:
            if self._children.get(sibling.key) is not sibling:
                continue
            if not (yield from self._start_again(sibling)):
                break

    def restarts_since(self, now: float) -> int:
        """Count the restarts that stand against the intensity at `now`."""
        return sum(at >= now - self.options.period for at in self._restarts)

    def _may_restart(self, now: float) -> bool:
        times = self._restarts
        period = self.options.period
        # OTP counts in whole seconds; a period with a fraction is dspex's own.
        if float(period).is_integer():
            now = math.floor(now)
        times.append(now)
        while times[0] < now - period:
            times.popleft()
        return len(times) <= self.options.intensity

    def _start_again(self, child: Child) -> Steps[bool]:
        failed = yield from self._start(child)
        if failed is None:
            return True
        self._set_restarting(child)
        yield Report("child_start_failed", child, failed.reason, "retry")
        yield Retry(child)
        return False

    def _set_restarting(self, child: Child) -> None:
        child.state = "restarting"
        if child.pid is not None:
            self._by_pid[child.pid] = child

    def _auto_shutdown(self, child: Child) -> Halt | None:
        wanted = self.options.auto_shutdown
        if wanted == "never" or not child.spec.significant:
            return None
        if wanted == "all_significant" and any(
            other.spec.significant and other.state != "undefined"
            for other in self._children.values()
        ):
            return None
        return Halt(SHUTDOWN)

    # One child.

    def _start(self, child: Child) -> Steps[Failed | None]:
        outcome: Started | Ignored | Failed = yield Start(child)
        if isinstance(outcome, Failed):
            return outcome
        self._by_pid.pop(child.pid, None)
        if isinstance(outcome, Started):
            child.pid = outcome.pid
            child.state = "running"
            self._by_pid[outcome.pid] = child
        else:
            child.pid = None
            self._set_down(child)
        return None

    def _stop(self, child: Child) -> Steps[None]:
        was_running = child.state == "running"
        child.state = "undefined"
        self._by_pid.pop(child.pid, None)
        if was_running:
            yield Stop(child)
        child.pid = None

    def _set_down(self, child: Child) -> None:
        child.state = "undefined"
        self._by_pid.pop(child.pid, None)
        child.pid = None
        if self.options.is_simple or child.spec.restart == "temporary":
            self._drop(child)

    def _drop(self, child: Child) -> None:
        if self._children.get(child.key) is child:
            del self._children[child.key]

    # Calls. They raise a SupervisorError to refuse.

    def start_child(self, spec: ChildSpec) -> Steps[Pid | None]:
        """Add a child at the end of the order and start it; None if it ignored.

        Under simple_one_for_one many children may have one id.
        """
        self.options.check(spec)
        key: object = spec.id
        if self.options.is_simple:
            key = next(self._numbers)
            maximum = self.options.max_children
            if maximum is not None and len(self._children) >= maximum:
                raise MaxChildrenError(spec.id, maximum)
        else:
            known = self._children.get(spec.id)
            if known is not None:
                if known.state == "running":
                    raise ChildAlreadyStartedError(spec.id, known.pid)
                raise ChildPresentError(spec.id)
        child = Child(key, spec)
        self._children[key] = child
        failed = yield from self._start(child)
        if failed is not None:
            self._drop(child)
            raise ChildStartError(spec.id, failed.reason)
        return child.pid

    def restart_child(self, id: str) -> Steps[Pid | None]:
        """Start a stopped child again, not counted as a restart; None if it ignored."""
        child = self._stopped(id)
        failed = yield from self._start(child)
        if failed is not None:
            raise ChildStartError(id, failed.reason)
        return child.pid

    def delete_child(self, id: str) -> None:
        """Forget a stopped child."""
        self._drop(self._stopped(id))

    def terminate_child(
        self, which: str | Pid, *, is_alive: Callable[[Pid], bool]
    ) -> Steps[None]:
        """Stop a child (by id, or by ref under simple_one_for_one); keep its spec."""
        if self.options.is_simple:
            if isinstance(which, str):
                raise SimpleOneForOneError(which)
            child = self._by_pid.get(which)
            if child is None:
                if is_alive(which):
                    raise ChildNotFoundError(which)
                return
        else:
            child = self._find(which)
        yield from self._stop(child)
        self._set_down(child)

    def get_childspec(
        self, which: str | Pid, *, is_alive: Callable[[Pid], bool]
    ) -> ChildSpec:
        """Give the spec of a child; of one that has ended, the template."""
        if not self.options.is_simple:
            return self._find(which).spec
        template = self.template
        if isinstance(which, str):
            if template is not None and which == template.id:
                return template
        elif (child := self._by_pid.get(which)) is not None:
            return child.spec
        elif template is not None and not is_alive(which):
            return template
        raise ChildNotFoundError(which)

    def _stopped(self, id: str) -> Child:
        if self.options.is_simple:
            raise SimpleOneForOneError(id)
        child = self._find(id)
        if child.state == "restarting":
            raise ChildRestartingError(id)
        if child.state == "running":
            raise ChildRunningError(id)
        return child

    def _find(self, which: object) -> Child:
        child = self._children.get(which)
        if child is None and not isinstance(which, str):
            child = self._by_pid.get(which)
        if child is None:
            raise ChildNotFoundError(which)
        return child
