"""World: the actors of one scenario, and what is seen of them."""

from collections import Counter
from functools import partial
from typing import Any, cast

import trio
import trio.testing

from dspex.runtime import (
    IGNORE,
    Actor,
    ActorExited,
    ActorRef,
    Exit,
    InitAnswer,
    Leave,
    Node,
    Refuse,
    StartError,
)
from dspex.runtime.telemetry import Event
from dspex.supervisors import ChildSpec, Supervise, Supervisor
from dspex.testing.otp_order import canonical
from dspex.testing.otp_terms import Json, RaisedError, reason_in, reason_out

AnyRef = ActorRef[Any]  # Any: workers and supervisors

# Longer than any scenario's own delay: who is still ending after this many virtual
# seconds, with its supervisor dead, is an orphan that nobody will ever kill.
_STUCK_SECONDS = 10.0


class World:
    """What a scenario's actors share: start counters, the event log, their refs."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self.events: list[Json] = []
        self.last: dict[str, AnyRef] = {}
        self.paths: dict[AnyRef, str] = {}
        self.simple: set[str] = set()
        self.plans: dict[str, Json] = {}
        self._parents: dict[AnyRef, AnyRef | None] = {}
        self._attempts: Counter[str] = Counter()
        self._stuck: set[AnyRef] = set()
        node.telemetry.attach(self._listen)

    def _listen(self, event: Event) -> None:
        if isinstance(event, ActorExited) and event.ref in self.paths:
            self.log("exit", self.paths[event.ref], reason_out(event.reason))

    def log(self, *event: Json) -> None:
        """Take note of an event."""
        self.events.append(list(event))

    def take_events(self) -> list[Json]:
        """Give the events since the last time, in canonical order."""
        events, self.events = self.events, []
        return canonical(events, self.simple)

    def alive(self, path: str) -> AnyRef | None:
        """Give the last process of this path, if it lives."""
        ref = self.last.get(path)
        return ref if ref is not None and ref.is_alive else None

    def orphans(self) -> list[str]:
        """List the paths that are alive."""
        return sorted(path for ref, path in self.paths.items() if ref.is_alive)

    def enter(self, actor: Actor, path: str, behaviour: Json) -> InitAnswer | None:
        """Do what the scenario says about this start of a path."""
        outcome = _outcome(behaviour.get("start", "ok"), self._attempts[path])
        self._attempts[path] += 1
        if outcome == "ignore":
            self.log("ignored", path)
            return IGNORE
        if outcome != "ok":
            reason = reason_in("raise" if outcome == "raise" else outcome)
            reason = "start_error" if outcome == "error" else reason
            self.log("start_failed", path, reason_out(reason))
            if isinstance(reason, RaisedError):
                raise reason
            raise Leave(reason)
        self.log("start", path)
        parent = "." if "/" not in path else path.rpartition("/")[0]
        self._parents[actor.ref] = None if path == "." else self.last.get(parent)
        self.last[path] = actor.ref
        self.paths[actor.ref] = path
        return None

    async def settle(self) -> None:
        """Wait until all mailboxes are empty and nobody starts, stops or restarts."""
        began = trio.current_time()
        while True:
            await trio.testing.wait_all_tasks_blocked()
            busy = [ref for ref in self.paths if self._is_busy(ref)]
            if not busy:
                return
            if trio.current_time() - began > _STUCK_SECONDS:
                self._stuck.update(ref for ref in busy if self._is_orphan(ref))
            await trio.sleep(0.05)

    def _is_busy(self, ref: AnyRef) -> bool:
        if not ref.is_alive or ref in self._stuck:
            return False
        return ref.state != "running" or not ref.mailbox.is_idle

    def _is_orphan(self, ref: AnyRef) -> bool:
        parent = self._parents[ref]
        return parent is not None and not parent.is_alive


class Worker(Actor):
    """A worker that behaves as a scenario says."""

    def __init__(self, world: World, path: str, behaviour: Json) -> None:
        self.world = world
        self.path = path
        self.behaviour = behaviour
        self.trap_exit = behaviour.get("trap_exit", True)
        self.leaving = False

    async def init(self) -> InitAnswer | None:
        """Start as the scenario says."""
        return self.world.enter(self, self.path, self.behaviour)

    async def leave(self, reason: Json) -> None:
        """End by itself."""
        self.leaving = True
        if reason == "raise":
            raise RaisedError("boom")
        raise Leave(reason_in(reason))

    async def handle_info(self, message: object) -> None:
        """Take note of a stranger's exit signal."""
        if isinstance(message, Exit):
            self.world.log("exit_msg", self.path, reason_out(message.reason))

    async def terminate(self, reason: object) -> None:
        """End as the scenario says."""
        self.world.log("terminate", self.path, reason_out(reason))
        how = self.behaviour.get("on_shutdown", "ok")
        if self.leaving or reason != "shutdown" or how == "ok":
            return
        if how == "ignore":
            await trio.sleep_forever()
        elif "slow" in how:
            await trio.sleep(how["slow"] / 1000)
        else:
            raise Leave(reason_in(how["exit"]))


class ScenarioSupervisor(Supervisor):
    """A supervisor that a scenario describes."""

    def __init__(self, world: World, path: str, behaviour: Json) -> None:
        self.world = world
        self.path = path
        self.behaviour = behaviour

    async def init(self) -> InitAnswer | None:
        """Start as the scenario says, then answer the children."""
        answer = self.world.enter(self, self.path, self.behaviour)
        if answer is not None:
            return answer
        plan = self.world.plans[self.path] = self.behaviour["supervisor"]
        if plan.get("strategy") == "simple_one_for_one":
            self.world.simple.add(self.path)
        options = {
            name: plan[name]
            for name in ("strategy", "intensity", "period", "auto_shutdown")
            if name in plan
        }
        Supervise((), **options)  # faulty options are named before faulty children
        children = [child_spec(self.world, self.path, it) for it in plan["children"]]
        return Supervise(children, **options)

    async def leave(self, reason: Json) -> None:
        """End by itself, in order."""
        self.stop(reason_in(reason))


class Root(Actor):
    """The parent of a scenario's root supervisor."""

    trap_exit = True

    async def start_tree(self, tree: ScenarioSupervisor) -> AnyRef:
        """Start the root."""
        try:
            return await self.start_link(tree)
        except StartError as error:
            raise Refuse(error) from None

    async def signal(self, ref: AnyRef, reason: object) -> None:
        """Send an exit signal as its parent."""
        self.exit(ref, reason)


def child_spec(
    world: World,
    supervisor: str,
    plan: Json,
    *,
    name: str | None = None,
    over: Json = None,
) -> ChildSpec:
    """Make the child spec of a scenario's child, or of one made from a template."""
    behaviour: Json = plan if over is None else {**plan, **over}
    name = plan.get("id") if name is None else name
    path = name if supervisor == "." else f"{supervisor}/{name}"
    is_supervisor = "supervisor" in plan
    shutdown = plan.get("shutdown")
    if isinstance(shutdown, int | float):
        shutdown = shutdown / 1000
    start = partial(
        ScenarioSupervisor if is_supervisor else Worker, world, path, behaviour
    )
    restart = plan.get("restart", "permanent")
    # OTP looks at this before it looks at shutdown and type, and names one fault only.
    Supervise(
        [
            ChildSpec(
                plan.get("id"),
                start,
                restart=restart,
                significant=plan.get("significant", False),
            )
        ],
        auto_shutdown=world.plans[supervisor].get("auto_shutdown", "never"),
    )
    return ChildSpec(
        plan.get("id"),
        start,
        restart=restart,
        shutdown=shutdown,
        type=plan.get("type", "supervisor" if is_supervisor else "worker"),
        significant=plan.get("significant", False),
    )


def _outcome(plan: Json, attempt: int) -> Json:
    first, then = _phases(plan)
    return first[attempt] if attempt < len(first) else then


def _phases(plan: Json) -> tuple[list[Json], Json]:
    """Give the outcomes of the first attempts, and that of all later ones."""
    if isinstance(plan, str):
        return [], plan
    if isinstance(plan, list):
        return plan, "ok"  # pyright: ignore[reportUnknownVariableType]
    fields = cast("dict[str, Json]", plan)
    if "seq" in fields:
        return fields["seq"], fields["then"]
    return ["ok"] + ["error"] * fields["fail_on_restart"], "ok"
