"""Random trees of actors under random faults: what must hold whatever happens."""

from collections.abc import Awaitable, Callable
from typing import Any

import structlog.testing
import trio
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st

from dspex.runtime import Actor, ActorRef, CallError, Node, open_node
from dspex.supervisors import ChildSpec, Supervisor, supervision_tree

NAMES = [f"w{n}" for n in range(6)]


class Worker(Actor):
    capacity = 4

    def __init__(self, log: list[tuple[str, str]], name: str, trap_exit: bool) -> None:
        self.log = log
        self.id = name
        self.trap_exit = trap_exit

    async def init(self) -> None:
        self.log.append(("start", self.id))
        await trio.lowlevel.checkpoint()

    async def echo(self, n: int) -> int:
        await trio.lowlevel.checkpoint()
        return n

    async def crash(self) -> None:
        raise ZeroDivisionError("boom")

    async def crash_later(self) -> None:
        self.spawn(self.crash)

    async def leave(self) -> None:
        self.stop()

    async def terminate(self, reason: object) -> None:
        await trio.lowlevel.checkpoint()
        self.log.append(("terminate", self.id))


@st.composite
def trees(draw: st.DrawFn) -> dict[str, Any]:
    """A supervisor of workers, with a supervisor of workers among them."""

    def worker(name: str) -> dict[str, Any]:
        return {
            "name": name,
            "restart": draw(st.sampled_from(["permanent", "transient", "temporary"])),
            "trap_exit": draw(st.booleans()),
        }

    def strategy() -> Any:
        return draw(st.sampled_from(["one_for_one", "one_for_all", "rest_for_one"]))

    return {
        "outer": [worker(name) for name in NAMES[:3]],
        "inner": [worker(name) for name in NAMES[3:]],
        "place": draw(st.integers(0, 3)),
        "strategies": (strategy(), strategy()),
        "intensity": draw(st.integers(0, 4)),
    }


faults = st.lists(
    st.tuples(
        st.sampled_from(NAMES),
        st.sampled_from(["crash", "crash_later", "leave", "kill", "signal", "call"]),
        st.booleans(),  # whether to let things settle afterwards
    ),
    max_size=20,
)


def build(plan: dict[str, Any], log: list[tuple[str, str]]) -> Supervisor:
    def specs(workers: list[dict[str, Any]]) -> list[ChildSpec]:
        return [
            ChildSpec(
                it["name"],
                Worker,
                (log, it["name"], it["trap_exit"]),
                name=it["name"],
                restart=it["restart"],
            )
            for it in workers
        ]

    outer, inner = plan["strategies"]
    children = specs(plan["outer"])
    children.insert(
        plan["place"],
        ChildSpec(
            "inner",
            lambda: Supervisor(
                specs(plan["inner"]), strategy=inner, intensity=plan["intensity"]
            ),
        ),
    )
    return Supervisor(children, strategy=outer, intensity=plan["intensity"])


async def live(plan: dict[str, Any], doings: list[tuple[str, str, bool]]) -> None:
    log: list[tuple[str, str]] = []
    answers: list[object] = []
    asked = 0

    async def call(ref: ActorRef[Worker], n: int) -> None:
        try:
            answers.append(await ref.call(Worker.echo, n))
        except CallError as error:
            answers.append(error)

    methods: dict[str, Callable[[Worker], Awaitable[None]]] = {
        "crash": Worker.crash,
        "crash_later": Worker.crash_later,
        "leave": Worker.leave,
    }
    async with open_node() as node, trio.open_nursery() as nursery:
        root = await node.start(build(plan, log), name="root")
        for name, doing, settle in doings:
            ref: ActorRef[Worker] | None = node.registry.whereis(name)
            if ref is None:
                continue
            if doing == "call":
                asked += 1
                nursery.start_soon(call, ref, asked)
            elif doing == "kill":
                ref.exit("kill")
            elif doing == "signal":
                ref.exit("boom")
            else:
                await ref.cast(methods[doing])
            if settle:
                await trio.testing.wait_all_tasks_blocked()
                check(node, root)
        await trio.testing.wait_all_tasks_blocked()
        check(node, root)
        assert len(answers) == asked  # every caller has been answered
        log.clear()
        order = started_order(node, root)
    assert node.processes() == []
    assert node.registry.names() == []
    ended = [id for event, id in log if event == "terminate"]
    assert ended == [id for id in reversed(order) if traps(plan, id)]


def check(node: Node, root: ActorRef[Supervisor]) -> None:
    alive = [process.name for process in node.processes()]
    assert len(alive) == len(set(alive))  # one process a name
    assert all(process.mailbox.is_idle for process in node.processes())
    if not root.is_alive:
        assert alive == []
        return
    shown = started_order(node, root)
    assert sorted(shown) == sorted(name for name in alive if name in NAMES)
    assert sorted(node.registry.names()) == sorted(["root", *shown])


def started_order(node: Node, root: ActorRef[Supervisor]) -> list[str]:
    if not root.is_alive:
        return []
    order: list[str] = []
    for child in supervision_tree(root).children:
        places = child.children if child.type == "supervisor" else (child,)
        order += [place.id for place in places if place.state == "running"]
    return order


def traps(plan: dict[str, Any], name: str) -> bool:
    return any(
        it["trap_exit"] for it in plan["outer"] + plan["inner"] if it["name"] == name
    )


@settings(max_examples=150, deadline=None)
@given(plan=trees(), doings=faults)
def test_random_faults_break_no_promise(
    plan: dict[str, Any], doings: list[tuple[str, str, bool]]
) -> None:
    with structlog.testing.capture_logs():
        trio.run(live, plan, doings)
