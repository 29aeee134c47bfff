"""Faults of processes, models, stores and the clock do real harm, and are undone."""

import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
import trio
import trio.testing

from dspex.providers import (
    ConnectionFailedError,
    OpenAI,
    ProviderTimeoutError,
    RateLimitError,
    RetryPolicy,
    ServerError,
    StatusError,
)
from dspex.providers.cache_stores import SQLiteStore
from dspex.runtime import Actor, ActorRef, Node, open_node
from dspex.runtime.child_process import ChildProcess
from dspex.runtime.journal import Fence, StoreFullError, StoreLockedError, connect
from dspex.supervisors import ChildSpec, Supervisor
from dspex.testing import (
    Answer,
    Fault,
    FaultPlan,
    FaultPlanError,
    FaultTarget,
    FaultyLM,
    ScriptedLM,
    assert_no_orphans,
    assert_restarted,
    faulty_provider,
    inject,
    open_fake_provider,
)
from dspex.testing.model_faults import GARBAGE
from dspex.testing.process_faults import ProcessInfo, descendants
from tests.journal.conftest import effect_of, opened, run_of


class Owner(Actor):
    """Owns a child process, and ends when that does."""

    async def init(self) -> None:
        self._child = ChildProcess.start(["sleep", "4321"], name="owned")
        self.spawn(self._own)

    async def _own(self) -> None:
        await self._child.run()
        raise ChildProcessError(f"it ended with {self._child.returncode}")

    async def pid(self) -> int:
        return self._child.pid


async def start(node: Node) -> ActorRef[Supervisor]:
    spec = ChildSpec("owner", Owner, name="owner")
    return await node.start(Supervisor([spec], intensity=100), name="root")


def owned() -> list[ProcessInfo]:
    return [it for it in descendants() if it.command == "sleep 4321"]


async def wait_until(claim: Callable[[], bool]) -> None:
    with trio.fail_after(5):
        # Of other processes, which send no event.
        while not claim():  # noqa: ASYNC110
            await trio.sleep(0.005)


@pytest.mark.parametrize("kind", ["kill", "leak"])
async def test_a_process_dies_at_the_nth_message_and_its_owner_is_restarted(
    kind: str,
) -> None:
    known = [it.pid for it in descendants()]
    async with open_node() as node:
        await start(node)
        fault = Fault("kill", "owner", "pid", on="process", target="sleep 43*", nth=2)
        if kind == "leak":
            fault = Fault(
                "leak", "owner", "pid", on="process", target="sleep 43*", nth=2
            )
        with inject(node, FaultPlan.of(fault)) as faults:
            ref = await node.registry.wait_for("owner")
            first = await ref.call(Owner.pid)
            assert await ref.call(Owner.pid) == first
            # With its pipes held open by another, as well: the end is seen.
            await wait_until(lambda: faults.restarts("owner") == 1)
            again = await node.registry.wait_for("owner")
            assert await again.call(Owner.pid) != first
            assert_restarted(faults, "owner", times=1)
            (done,) = faults.injected
            assert (done.kind, done.method, done.on) == (kind, str(first), "process")
    assert_no_orphans(allowed=known)


async def test_what_is_leaked_is_an_orphan_until_the_injection_ends() -> None:
    known = [it.pid for it in descendants()]
    async with open_node() as node:
        await start(node)
        fault = Fault("leak", on="process", target="sleep 4321")
        with inject(node, FaultPlan.of(fault)) as faults:
            await wait_until(lambda: faults.restarts("owner") == 1)
            kept = [*known, *(it.pid for it in owned())]
            with pytest.raises(AssertionError, match="sleep 86400"):
                assert_no_orphans(allowed=kept)
    assert_no_orphans(allowed=known)


async def test_a_stopped_process_goes_on_later() -> None:
    async with open_node() as node:
        await start(node)
        await wait_until(lambda: len(owned()) == 1)  # before exec it has another name
        (child,) = owned()
        fault = Fault("stop", on="process", target="sleep 4321", seconds=0.2)
        with inject(node, FaultPlan.of(fault)):
            await wait_until(lambda: owned()[0].state == "T")
            await wait_until(lambda: owned()[0].state == "S")
        long = Fault("stop", on="process", target="sleep 4321", seconds=600.0)
        with inject(node, FaultPlan.of(long)):
            await wait_until(lambda: owned()[0].state == "T")
        await wait_until(lambda: owned()[0].state == "S")
        assert owned()[0].pid == child.pid


async def test_processes_are_hit_again_and_again_with_every() -> None:
    async with open_node() as node:
        await start(node)
        fault = Fault("kill", on="process", target="sleep 4321", every=0.05, after=0.05)
        with inject(node, FaultPlan.of(fault)) as faults:
            await wait_until(lambda: faults.restarts("owner") >= 3)
        seen = faults.restarts("owner")
        await wait_until(lambda: node.registry.whereis("owner") is not None)
        await trio.sleep(0.2)
        assert faults.restarts("owner") <= seen + 1
        assert len({it.method for it in faults.injected}) >= 3


# Models, by themselves.


async def faulty(*faults: Fault) -> FaultyLM:
    await trio.lowlevel.checkpoint()
    return FaultyLM(ScriptedLM(lambda _: "a good answer"), FaultPlan.of(*faults))


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        (Fault("fail", on="model"), ServerError),
        (Fault("fail", on="model", status=429, seconds=7.0), RateLimitError),
        (Fault("hang", on="model"), ProviderTimeoutError),
        (Fault("slow", on="model", seconds=60.0), ProviderTimeoutError),
        (Fault("reset", on="model"), ConnectionFailedError),
    ],
    ids=str,
)
async def test_a_model_call_that_is_hit_ends_in_the_typed_error(
    fault: Fault, error: type[Exception], autojump_clock: trio.testing.MockClock
) -> None:
    lm = await faulty(fault)
    with pytest.raises(error) as caught:
        await lm.complete("x", timeout=30.0)
    assert (await lm.complete("x")).text == "a good answer"
    assert [it.kind for it in lm.injected] == [fault.kind]
    if isinstance(caught.value, StatusError) and caught.value.status == 429:
        assert caught.value.retry_after == 7.0


async def test_a_model_call_is_late_cut_or_garbled(
    autojump_clock: trio.testing.MockClock,
) -> None:
    lm = await faulty(
        Fault("slow", on="model", nth=1, seconds=5.0),
        Fault("truncate", on="model", nth=2),
        Fault("garbage", on="model", nth=3),
        Fault("garbage", on="model", target="another:*"),
    )
    assert (await lm.complete("x", timeout=30.0)).text == "a good answer"
    assert trio.current_time() == 5.0
    cut = await lm.complete("x")
    assert (cut.text, cut.choices[0].finish_reason) == ("a good", "length")
    async with lm.stream("x") as stream:
        assert (await stream.read()).text == GARBAGE
    async with lm.stream("x") as stream:
        assert (await stream.read()).text == "a good answer"


# Providers, over a real socket.


@pytest.mark.parametrize(
    "kind", ["fail", "reset", "truncate", "garbage", "drip", "slow", "hang"]
)
async def test_a_provider_that_is_hit_does_so_on_the_wire(kind: str) -> None:
    said = FaultPlan.from_yaml(
        f"faults: [{{kind: {kind}, on: model, target: gpt-*, seconds: 0.1}}]"
    )
    answers = [Answer("first"), Answer("second")]
    async with (
        open_fake_provider(faulty_provider(said, answers)) as server,
        OpenAI(
            "gpt-x", base_url=server.url, api_key="k", retries=RetryPolicy(attempts=1)
        ) as lm,
    ):
        failure: Exception | None = None
        try:
            response = await lm.complete("x", timeout=0.5)
        except Exception as error:  # noqa: BLE001 - which one is asserted below
            failure = error
        else:
            assert response.text == "first"
        assert type(failure).__name__ == {
            "fail": "ServerError",
            "reset": "ConnectionFailedError",
            "truncate": "ConnectionFailedError",
            "garbage": "MalformedResponseError",
            "hang": "ProviderTimeoutError",
        }.get(kind, "NoneType")
        # Whoever comes next is not hit.
        assert (await lm.complete("x", timeout=2.0)).text == "second"


# Stores: SQLite's own errors.

FENCE = Fence("r", "w", 1)


async def test_a_full_disk_refuses_one_commit(tmp_path: Path) -> None:
    async with opened(tmp_path / "store.db") as (journal, node):
        await journal.accept(run_of("r"))
        plan = FaultPlan.of(Fault("full", on="store", nth=2))
        with inject(node, plan, journal=journal) as faults:
            await journal.write(effect_of(FENCE, 1))
            with pytest.raises(StoreFullError, match="full"):
                await journal.write(effect_of(FENCE, 2))
            await journal.write(effect_of(FENCE, 3))
        assert str(faults.injected[0]).endswith("full store.commit #2 (store)")
        assert [row.occurrence for row in await journal.effects("r")] == [1, 3]


async def test_a_lock_is_waited_for_or_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connect, "BUSY_SECONDS", 0.3)
    async with opened(tmp_path / "store.db") as (journal, node):
        await journal.accept(run_of("r"))
        plan = FaultPlan.of(
            Fault("lock", on="store", nth=1, seconds=0.05),
            Fault("lock", on="store", nth=2, seconds=30.0),
        )
        with inject(node, plan, journal=journal):
            await journal.write(effect_of(FENCE, 1))
            with pytest.raises(StoreLockedError):
                await journal.write(effect_of(FENCE, 2))
        await journal.write(effect_of(FENCE, 3))


async def test_a_slow_disk_makes_its_writers_wait(tmp_path: Path) -> None:
    async with opened(tmp_path / "store.db") as (journal, node):
        await journal.accept(run_of("r"))
        plan = FaultPlan.of(Fault("slow", on="store", seconds=0.2))
        with inject(node, plan, journal=journal):
            began = trio.current_time()
            await journal.write(effect_of(FENCE, 1))
            assert trio.current_time() - began >= 0.2


async def test_a_fault_of_a_store_needs_one() -> None:
    async with open_node() as node:
        with (
            pytest.raises(FaultPlanError, match="journal"),
            inject(node, FaultPlan.of(Fault("full", on="store"))),
        ):
            raise AssertionError("not reached")


# The clock.


async def test_the_wall_clock_jumps_and_comes_back(
    autojump_clock: trio.testing.MockClock,
) -> None:
    jump = Fault("jump", on="clock", seconds=-3600.0, after=10.0, until=20.0)
    async with open_node() as node:
        with inject(node, FaultPlan.of(jump)):
            began = time.time()
            await trio.sleep(15)
            assert time.time() - began == pytest.approx(-3600, abs=5)
            await trio.sleep(15)
            assert time.time() - began == pytest.approx(0, abs=5)


async def test_a_skewed_clock_outdates_what_is_kept(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    skew = Fault("skew", on="clock", seconds=9.0)
    with closing(SQLiteStore(tmp_path / "cache.db")) as cache:
        async with open_node() as node:
            await cache.put("key", b"body", ttl=3600.0)
            with inject(node, FaultPlan.of(skew)):
                await trio.sleep(300)
                assert await cache.get("key") == b"body"
                await trio.sleep(300)
                assert await cache.get("key") is None


async def test_a_message_can_make_the_clock_jump() -> None:
    async with open_node() as node:
        await start(node)
        jump = Fault("jump", "owner", "pid", on="clock", seconds=7200.0, nth=1)
        with inject(node, FaultPlan.of(jump)) as faults:
            began = time.time()
            ref = await node.registry.wait_for("owner")
            await ref.call(Owner.pid)
            assert time.time() - began == pytest.approx(7200, abs=60)
            assert faults.injected[0].on == "clock"
        assert time.time() - began == pytest.approx(0, abs=60)


@pytest.mark.parametrize(
    ("on", "text", "said"),
    [
        ("process", "kind: crash", "allowed: kill, stop, leak"),
        ("model", "kind: full", "allowed: fail"),
        ("store", "{kind: full, target: x}", "says nothing about a store"),
        ("model", "{kind: fail, actor: x}", "says nothing about a model"),
        ("model", "{kind: fail, status: 200}", "status=200"),
        ("actor", "{kind: crash, every: 2}", "every=2"),
        ("process", "{kind: kill, every: 0}", "every=0"),
        ("process", "{kind: kill, probability: 0.5}", "needs every"),
        ("actor", "{kind: slow, seconds: soon}", "seconds='soon'"),
        ("actor", "{kind: slow, seconds: -1}", "seconds=-1"),
        ("actor", "{kind: slow, after: 5, until: 1}", "after=5"),
        ("space", "kind: crash", "'space'"),
    ],
)
def test_a_fault_that_cannot_be_says_why(on: FaultTarget, text: str, said: str) -> None:
    listed = text if text.startswith("{") else f"{{{text}}}"
    with pytest.raises(FaultPlanError) as caught:
        FaultPlan.from_yaml(f"faults: [{listed[:-1]}, on: {on}}}]")
    assert said in str(caught.value)


def test_every_target_reads_back_the_same() -> None:
    plan = FaultPlan.of(
        Fault("kill", on="process", target="*child.py*", every=2.0),
        Fault("fail", on="model", status=429, probability=0.5),
        Fault("full", on="store", nth=3),
        Fault("skew", on="clock", seconds=0.1),
    )
    assert FaultPlan.from_yaml(plan.to_yaml()) == plan
