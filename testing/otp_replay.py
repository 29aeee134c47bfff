"""Replay: run one scenario against dspex's public API and give its trace."""

import math
from collections.abc import Awaitable
from dataclasses import dataclass
from typing import Any

import trio
import trio.testing

from dspex.runtime import (
    ActorRef,
    CalleeExitedError,
    Node,
    NoProcessError,
    StartError,
    StartIgnoredError,
    open_node,
    sys,
)
from dspex.supervisors import (
    ChildInfo,
    ChildSpec,
    ChildSpecError,
    Supervisor,
    SupervisorError,
)
from dspex.testing.otp_terms import (
    Json,
    error_out,
    reason_in,
    reason_out,
    spec_out,
)
from dspex.testing.otp_world import Root, ScenarioSupervisor, Worker, World, child_spec

AnyRef = ActorRef[Any]  # Any: workers and supervisors


@dataclass(frozen=True, slots=True)
class Replayed:
    """What dspex did: the steps of the trace, and the simple_one_for_one paths."""

    steps: list[Json]
    simple: set[str]


def replay(scenario: Json) -> Replayed:
    """Run a scenario on a virtual clock; give its trace."""
    clock = trio.testing.MockClock(autojump_threshold=0)
    return trio.run(_replay, scenario, clock=clock)


async def _replay(scenario: Json) -> Replayed:
    async with open_node(shutdown_timeout=0) as node:
        run = _Replay(node, scenario)
        return Replayed(await run.run(), run.world.simple)


class _Replay:
    def __init__(self, node: Node, scenario: Json) -> None:
        self.node = node
        self.scenario = scenario
        self.world = World(node)
        self.root: AnyRef | None = None

    async def run(self) -> list[Json]:
        self.parent = await self.node.start(Root())
        steps = [await self._record("start", self._start())]
        for step in self.scenario["steps"]:
            entry = await self._record(step["op"], self._step(step))
            steps.append(entry)
        last = await self._record("final_stop", self._stop("shutdown"))
        steps.append({**last, "orphans": self.world.orphans()})
        return steps

    async def _record(self, op: str, work: Awaitable[Json]) -> Json:
        result = await work
        await self.world.settle()
        return {
            "op": op,
            "result": result,
            "events": self.world.take_events(),
            "tree": await self._tree("."),
        }

    async def _start(self) -> Json:
        plan = {"supervisor": self.scenario["supervisor"]}
        tree = ScenarioSupervisor(self.world, ".", plan)
        try:
            self.root = await self.parent.call(Root.start_tree, tree, timeout=math.inf)
        except StartIgnoredError:
            return "ignore"
        except StartError as error:
            return {"error": reason_out(error.reason)}
        return "ok"

    async def _step(self, step: Json) -> Json:
        op = step["op"]
        if op == "sleep":
            await trio.sleep(step["ms"] / 1000)
            return "ok"
        if op == "stop":
            return await self._stop(step["reason"])
        if op == "exit":
            return await self._exit(step["child"], step["reason"])
        if op == "signal":
            ref = self.world.alive(step["child"])
            if ref is None:
                return "noproc"
            ref.exit(reason_in(step["reason"]))
            return "ok"
        if op == "batch":
            return await self._batch(step)
        return await self._call(step)

    async def _stop(self, reason: Json) -> Json:
        root = self.root
        if root is None or not root.is_alive:
            return "noproc"
        await self.parent.call(Root.signal, root, reason_in(reason))
        return {"exit": reason_out(await root.wait_exit())}

    async def _exit(self, path: str, reason: Json) -> Json:
        ref = self.world.alive(path)
        if ref is None:
            return "noproc"
        if reason == "kill":
            ref.exit("kill")
        elif path in self.world.plans:
            await ref.cast(ScenarioSupervisor.leave, reason)
        else:
            await ref.cast(Worker.leave, reason)
        return "ok"

    async def _batch(self, step: Json) -> Json:
        supervisor = self.world.alive(step.get("sup", "."))
        if supervisor is None:
            return "noproc"
        await sys.suspend(supervisor, timeout=math.inf)
        results: list[Json] = [None] * len(step["ops"])

        async def answer(index: int, op: Json) -> None:
            results[index] = await self._step({"sup": step.get("sup", "."), **op})

        async with trio.open_nursery() as nursery:
            for index, op in enumerate(step["ops"]):
                nursery.start_soon(answer, index, op)
                await trio.testing.wait_all_tasks_blocked()
            await sys.resume(supervisor, timeout=math.inf)
        return results

    async def _call(self, step: Json) -> Json:
        path = step.get("sup", ".")
        ref = self.world.alive(path)
        if ref is None:
            return "noproc"
        try:
            return await self._ask(ref, path, step)
        except SupervisorError as error:
            return {"error": error_out(error)}
        except NoProcessError:
            return "noproc"
        except CalleeExitedError as error:
            return {"exit": reason_out(error.reason)}

    async def _ask(self, ref: ActorRef[Supervisor], path: str, step: Json) -> Json:
        op = step["op"]
        if op == "start_child":
            try:
                spec = self._spec_of(path, step)
            except ChildSpecError:
                # In OTP the supervisor finds this out, when the call's turn comes.
                await ref.call(Supervisor.count_children, timeout=math.inf)
                raise
            pid = await ref.call(Supervisor.start_child, spec, timeout=math.inf)
            return {"ok": "undefined" if pid is None else "pid"}
        if op == "which_children":
            children = await ref.call(Supervisor.which_children, timeout=math.inf)
            return self._listed(path, children)
        if op == "count_children":
            count = await ref.call(Supervisor.count_children, timeout=math.inf)
            return {
                "specs": count.specs,
                "active": count.active,
                "supervisors": count.supervisors,
                "workers": count.workers,
            }
        which = self._which(path, step)
        if op == "get_childspec":
            spec = await ref.call(Supervisor.get_childspec, which, timeout=math.inf)
            return {"ok": spec_out(spec)}
        if op == "terminate_child":
            await ref.call(Supervisor.terminate_child, which, timeout=math.inf)
            return "ok"
        if op == "delete_child":
            await ref.call(Supervisor.delete_child, which, timeout=math.inf)
            return "ok"
        if op == "restart_child":
            pid = await ref.call(Supervisor.restart_child, which, timeout=math.inf)
            return {"ok": "undefined" if pid is None else "pid"}
        raise ValueError(f"unknown op {op!r}")

    def _spec_of(self, path: str, step: Json) -> ChildSpec:
        if path not in self.world.simple:
            return child_spec(self.world, path, step["spec"])
        (template,) = self.world.plans[path]["children"]
        return child_spec(
            self.world, path, template, name=step["name"], over=step.get("over")
        )

    def _which(self, path: str, step: Json) -> Json:
        if path not in self.world.simple or step.get("by") == "id":
            return step["id"]
        child = step["id"] if path == "." else f"{path}/{step['id']}"
        return self.world.last.get(child, step["id"])

    def _listed(self, path: str, children: list[ChildInfo]) -> Json:
        listed = [
            [self._label(path, child), _state(child), child.type] for child in children
        ]
        if path in self.world.simple:
            listed.sort(key=lambda it: it[0] or "")
        return listed

    def _label(self, path: str, child: ChildInfo) -> str | None:
        if path not in self.world.simple:
            return child.id
        if child.ref is None:
            return None
        return self.world.paths[child.ref].rpartition("/")[2]

    async def _tree(self, path: str) -> Json:
        ref = self.world.alive(path)
        if ref is None:
            return None
        branches: list[Json] = []
        for child in await ref.call(Supervisor.which_children, timeout=math.inf):
            branch: Json = [self._label(path, child), _state(child)]
            inner = None if child.ref is None else self.world.paths[child.ref]
            if inner in self.world.plans:
                branch.append(await self._tree(inner))
            branches.append(branch)
        if path in self.world.simple:
            branches.sort(key=lambda it: it[0] or "")
        return branches


def _state(child: ChildInfo) -> str:
    return "alive" if child.state == "running" else child.state
