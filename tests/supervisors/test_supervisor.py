"""Supervisors end to end: restarts, escalation, orderly stops, introspection."""

import math

import pytest
import trio
import trio.testing

from dspex.runtime import (
    IGNORE,
    Actor,
    ActorRef,
    InitAnswer,
    Node,
    StartError,
    open_node,
)
from dspex.supervisors import (
    Backoff,
    ChildAlreadyStartedError,
    ChildNotFoundError,
    ChildPresentError,
    ChildRestartingError,
    ChildRunningError,
    ChildSpec,
    ChildSpecError,
    DynamicSupervisor,
    MaxChildrenError,
    SimpleOneForOneError,
    Supervise,
    Supervisor,
    supervision_tree,
)

Log = list[tuple[str, str]]


class Worker(Actor):
    trap_exit = True

    def __init__(self, id: str, log: Log) -> None:
        self.id = id
        self.log = log

    async def init(self) -> InitAnswer | None:
        self.log.append(("start", self.id))
        return None

    async def boom(self) -> None:
        raise ZeroDivisionError("boom")

    async def leave(self) -> None:
        self.stop()

    async def terminate(self, reason: object) -> None:
        self.log.append(("terminate", self.id))


class BadInit(Actor):
    async def init(self) -> InitAnswer | None:
        raise RuntimeError("no database")


class Absent(Actor):
    async def init(self) -> InitAnswer | None:
        return IGNORE


def specs(log: Log, *ids: str) -> list[ChildSpec]:
    return [ChildSpec(id, Worker, (id, log), name=id) for id in ids]


async def crash(node: Node, name: str) -> None:
    ref: ActorRef[Worker] | None = node.registry.whereis(name)
    assert ref is not None
    await ref.cast(Worker.boom)
    await trio.testing.wait_all_tasks_blocked()


@pytest.mark.parametrize(
    ("strategy", "restarted"),
    [
        ("one_for_one", ["b"]),
        ("one_for_all", ["a", "b", "c"]),
        ("rest_for_one", ["b", "c"]),
    ],
)
async def test_a_crash_restarts_what_the_strategy_says(
    strategy: str, restarted: list[str]
) -> None:
    log: Log = []
    async with open_node() as node:
        tree = Supervisor(specs(log, "a", "b", "c"), strategy=strategy)  # type: ignore[arg-type]
        await node.start(tree, name="root")
        log.clear()
        await crash(node, "b")
        started = [id for event, id in log if event == "start"]
        assert started == restarted
        stopped = [id for event, id in log if event == "terminate"]
        assert stopped == ["b", *(id for id in reversed(restarted) if id != "b")]
        ref = await node.registry.wait_for("b")
        await ref.call(Worker.leave)


async def test_children_stop_in_reverse_order_when_the_node_is_left() -> None:
    log: Log = []
    async with open_node() as node:
        await node.start(Supervisor(specs(log, "a", "b", "c")))
        log.clear()
    assert [id for _, id in log] == ["c", "b", "a"]


@pytest.mark.parametrize(
    ("restart", "crashed", "alive"),
    [
        ("permanent", True, True),
        ("permanent", False, True),
        ("transient", True, True),
        ("transient", False, False),
        ("temporary", True, False),
        ("temporary", False, False),
    ],
)
async def test_restart_type_decides(restart: str, crashed: bool, alive: bool) -> None:
    log: Log = []
    async with open_node() as node:
        spec = ChildSpec("w", Worker, ("w", log), name="w", restart=restart)  # type: ignore[arg-type]
        await node.start(Supervisor([spec]))
        ref = await node.registry.wait_for("w")
        await ref.cast(Worker.boom if crashed else Worker.leave)
        await trio.testing.wait_all_tasks_blocked()
        assert (node.registry.whereis("w") is not None) is alive


async def test_too_many_restarts_escalate_and_the_parent_starts_afresh() -> None:
    log: Log = []
    async with open_node() as node:
        inner = ChildSpec(
            "inner", lambda: Supervisor(specs(log, "a", "b"), intensity=1)
        )
        root = await node.start(Supervisor([inner], intensity=1))
        await crash(node, "a")
        log.clear()
        await crash(node, "a")
        assert log == [
            ("terminate", "a"), ("terminate", "b"), ("start", "a"), ("start", "b")
        ]  # fmt: skip
        [info] = await root.call(Supervisor.which_children)
        assert (info.restarts, info.type) == (1, "supervisor")
        await crash(node, "a")
        await crash(node, "a")
        assert root.exit_reason == "shutdown"
        assert node.registry.names() == []


@pytest.mark.parametrize(
    ("period", "is_alive"), [(1, False), (1.0, False), (1.5, True), (0.5, True)]
)
async def test_the_window_counts_whole_seconds_unless_the_period_has_a_fraction(
    period: float, is_alive: bool, autojump_clock: trio.testing.MockClock
) -> None:
    async with open_node() as node:
        root = await node.start(Supervisor(specs([], "a"), intensity=1, period=period))
        await trio.sleep(math.floor(trio.current_time()) + 1.1 - trio.current_time())
        await crash(node, "a")
        await trio.sleep(1.8)
        await crash(node, "a")
        assert root.is_alive is is_alive


async def test_restarts_older_than_the_period_are_forgotten(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with open_node() as node:
        root = await node.start(Supervisor(specs([], "a"), intensity=1, period=5))
        for _ in range(4):
            await crash(node, "a")
            await trio.sleep(6)
        assert root.is_alive


async def test_a_child_that_ignores_its_shutdown_is_killed(
    autojump_clock: trio.testing.MockClock,
) -> None:
    class Stubborn(Actor):
        trap_exit = True

        async def terminate(self, reason: object) -> None:
            await trio.sleep_forever()

    async with open_node() as node:
        root = await node.start(
            Supervisor([ChildSpec("s", Stubborn, name="s", shutdown=2.0)])
        )
        ref = node.registry.whereis("s")
        await root.call(Supervisor.terminate_child, "s")
        assert trio.current_time() == pytest.approx(2)
        assert ref is not None
        assert ref.exit_reason == "killed"


async def test_a_failed_start_stops_the_started_ones_and_tells_why() -> None:
    log: Log = []
    async with open_node() as node:
        children = [*specs(log, "a", "b"), ChildSpec("c", BadInit)]
        with pytest.raises(StartError, match=r"child 'c' failed to start.*no database"):
            await node.start(Supervisor(children), name="root")
        assert [id for _, id in log] == ["a", "b", "b", "a"]
        assert node.registry.names() == []


async def test_a_restart_that_fails_is_tried_again_until_the_intensity() -> None:
    starts = 0

    class Flaky(Actor):
        async def init(self) -> InitAnswer | None:
            nonlocal starts
            starts += 1
            if starts in (2, 3):
                raise RuntimeError("not yet")
            return None

        async def boom(self) -> None:
            raise ZeroDivisionError

    async with open_node() as node:
        root = await node.start(
            Supervisor([ChildSpec("f", Flaky, name="f")], intensity=3)
        )
        ref = await node.registry.wait_for("f")
        await ref.cast(Flaky.boom)
        await trio.testing.wait_all_tasks_blocked()
        assert (starts, root.is_alive) == (4, True)
        ref = await node.registry.wait_for("f")
        await ref.cast(Flaky.boom)
        await trio.testing.wait_all_tasks_blocked()
        assert root.exit_reason == "shutdown"


async def test_children_are_managed_by_id() -> None:
    log: Log = []
    async with open_node() as node:
        root = await node.start(Supervisor(specs(log, "a")))
        (spec,) = specs(log, "b")
        ref = await root.call(Supervisor.start_child, spec)
        assert ref == node.registry.whereis("b")
        with pytest.raises(ChildAlreadyStartedError):
            await root.call(Supervisor.start_child, spec)
        with pytest.raises(ChildRunningError):
            await root.call(Supervisor.delete_child, "b")
        await root.call(Supervisor.terminate_child, "b")
        with pytest.raises(ChildPresentError):
            await root.call(Supervisor.start_child, spec)
        count = await root.call(Supervisor.count_children)
        assert (count.specs, count.active, count.workers) == (2, 1, 2)
        assert await root.call(Supervisor.restart_child, "b") is not None
        await root.call(Supervisor.terminate_child, "b")
        await root.call(Supervisor.delete_child, "b")
        with pytest.raises(ChildNotFoundError):
            await root.call(Supervisor.get_childspec, "b")


async def test_a_child_that_is_being_restarted_is_terminated_first(
    autojump_clock: trio.testing.MockClock,
) -> None:
    log: Log = []
    backoff = Backoff(initial=60.0, maximum=60.0)
    async with open_node() as node:
        root = await node.start(Supervisor(specs(log, "a"), backoff=backoff))
        await crash(node, "a")
        with pytest.raises(ChildRestartingError, match="terminate it first"):
            await root.call(Supervisor.restart_child, "a")
        with pytest.raises(ChildRestartingError, match="terminate it first"):
            await root.call(Supervisor.delete_child, "a")
        await root.call(Supervisor.terminate_child, "a")
        assert await root.call(Supervisor.restart_child, "a") == (
            node.registry.whereis("a")
        )


async def test_dynamic_children_are_managed_by_ref() -> None:
    log: Log = []
    async with open_node() as node:
        root = await node.start(DynamicSupervisor(max_children=2, intensity=3))
        (spec,) = specs(log, "d")
        first = await root.call(DynamicSupervisor.start_child, spec)
        assert first is not None
        nameless = ChildSpec("d", Worker, ("d2", log), restart="temporary")
        second = await root.call(DynamicSupervisor.start_child, nameless)
        assert second is not None
        with pytest.raises(MaxChildrenError):
            await root.call(DynamicSupervisor.start_child, nameless)
        with pytest.raises(SimpleOneForOneError):
            await root.call(DynamicSupervisor.terminate_child, "d")
        await root.call(DynamicSupervisor.terminate_child, second)
        await root.call(DynamicSupervisor.terminate_child, second)
        await crash(node, "d")
        [info] = await root.call(DynamicSupervisor.which_children)
        assert (info.id, info.restarts, info.ref) == (
            "d",
            1,
            node.registry.whereis("d"),
        )


async def test_the_tree_can_be_read_from_outside() -> None:
    log: Log = []
    async with open_node() as node:
        tree = [*specs(log, "a"), ChildSpec("sub", lambda: Supervisor(specs(log, "b")))]
        await node.start(Supervisor([*tree, ChildSpec("none", Absent)]), name="root")
        await crash(node, "b")
        snapshot = supervision_tree(node)
        (root,) = snapshot.children
        assert [child.id for child in root.children] == ["a", "sub", "none"]
        assert [child.state for child in root.children] == [
            "running", "running", "undefined"
        ]  # fmt: skip
        assert [child.type for child in root.children] == [
            "worker", "supervisor", "worker"
        ]  # fmt: skip
        assert root.children[1].children[0].restarts == 1
        assert "└── b [running, restarts=1]" in str(snapshot)


class ClassForm(Supervisor):
    def __init__(self, log: Log) -> None:
        self.log = log

    async def init(self) -> InitAnswer | None:
        return Supervise(specs(self.log, "a", "b"), strategy="one_for_all")


async def test_class_form_answers_its_children_from_init() -> None:
    log: Log = []
    async with open_node() as node:
        await node.start(Supervisor([ChildSpec("c", ClassForm, (log,))]))
        assert node.registry.names() == ["a", "b"]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("restart", "sometimes"),
        ("shutdown", -1),
        ("shutdown", "later"),
        ("shutdown", math.nan),
        ("type", "boss"),
    ],
)
def test_a_bad_child_spec_names_field_and_value(field: str, value: object) -> None:
    with pytest.raises(ChildSpecError, match=field) as caught:
        ChildSpec("a", BadInit, **{field: value})  # type: ignore[arg-type]
    assert (caught.value.child, caught.value.field) == ("a", field)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("strategy", "one_for_some"),
        ("intensity", -1),
        ("period", 0),
        ("auto_shutdown", "sometimes"),
    ],
)
def test_a_bad_option_names_itself(field: str, value: object) -> None:
    with pytest.raises(ChildSpecError, match=field):
        Supervisor([], **{field: value})  # type: ignore[arg-type]
    with pytest.raises(ChildSpecError, match="unique"):
        Supervisor([ChildSpec("a", BadInit), ChildSpec("a", BadInit)])


@pytest.mark.parametrize(
    ("auto_shutdown", "restart"), [("never", "transient"), ("any_significant", None)]
)
def test_significant_needs_auto_shutdown_and_an_end(
    auto_shutdown: str, restart: str | None
) -> None:
    spec = ChildSpec(
        "a",
        BadInit,
        restart=restart or "permanent",  # type: ignore[arg-type]
        significant=True,
    )
    with pytest.raises(ChildSpecError, match="significant"):
        Supervisor([spec], auto_shutdown=auto_shutdown)  # type: ignore[arg-type]
