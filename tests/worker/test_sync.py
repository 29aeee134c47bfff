"""The runtime in synchronous code."""

import math
import os
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest
import trio

import dspex
from dspex import App, Run
from dspex.testing import ScriptedLM
from dspex.worker.app import Runtime
from dspex.worker.errors import OwnThreadError, RuntimeClosedError
from tests.worker.triage_app import app


def test_many_threads_share_one_runtime() -> None:
    with dspex.sync.open_runtime(app()) as rt, ThreadPoolExecutor(20) as pool:

        def ask(n: int) -> Run:
            return rt.run("triage", ticket=str(n))

        runs = list(pool.map(ask, range(100)))
    assert {run.outputs["category"] for run in runs} == {"billing"}


def test_a_submitted_run_gives_its_events_and_its_result() -> None:
    with dspex.sync.open_runtime(app()) as rt:
        run = rt.submit("triage", {"ticket": "x"})
        assert [it.kind for it in rt.events(run)][-1] == "finished"
        assert rt.result(run).id == run


def test_a_stream_tells_what_a_run_does_up_to_its_end() -> None:
    with dspex.sync.open_runtime(app()) as rt:
        events = list(rt.stream("triage", ticket="x"))
        assert [it.seq for it in events] == [1, 2, 3, 4, 5, 6]
        assert events[-1].data["status"] == "succeeded"


@pytest.mark.parametrize("store", [None, "runs.db"])
def test_a_stream_that_is_left_cancels_its_run(
    store: str | None, tmp_path: Path
) -> None:
    async def status(runtime: Runtime) -> str:
        return runtime.table.get(run).status

    at = None if store is None else tmp_path / store
    with dspex.sync.open_runtime(app(delay=60), store=at) as rt:
        with closing(rt.stream("triage", ticket="x")) as events:
            run = next(events).run
        assert rt.call(status) == "cancelled"


def test_a_stream_can_be_closed_after_its_runtime() -> None:
    with dspex.sync.open_runtime(app(delay=60)) as rt:
        stream = rt.stream("triage", ticket="x")
        next(stream)
    stream.close()


def test_ctrl_c_in_a_waiting_call_cancels_its_work() -> None:
    ended: list[str] = []

    async def work(_: Runtime) -> None:
        try:
            os.kill(os.getpid(), signal.SIGINT)
            await trio.sleep_forever()
        finally:
            ended.append("cleaned up")

    with dspex.sync.open_runtime(app()) as rt:
        with pytest.raises(KeyboardInterrupt):
            rt.call(work)
        assert ended == ["cleaned up"]
        assert rt.run("triage", ticket="x").status == "succeeded"


def test_ctrl_c_while_trio_is_woken_leaves_a_runtime_that_hears(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    wake = trio.lowlevel.TrioToken.run_sync_soon
    with dspex.sync.open_runtime(app()) as rt:

        def interrupted(*_: object, **__: object) -> None:
            monkeypatch.setattr(trio.lowlevel.TrioToken, "run_sync_soon", wake)
            signal.raise_signal(signal.SIGINT)

        monkeypatch.setattr(trio.lowlevel.TrioToken, "run_sync_soon", interrupted)
        # Ends the wait where trio is never woken again.
        again = threading.Timer(10.0, os.kill, (os.getpid(), signal.SIGINT))
        again.start()
        with pytest.raises(KeyboardInterrupt):
            rt.run("triage", ticket="x")
        assert not again.finished.is_set()
        again.cancel()
        assert rt.run("triage", ticket="x").status == "succeeded"


def test_a_call_from_the_runtimes_own_thread_is_told_so() -> None:
    with dspex.sync.open_runtime(app()) as rt:

        async def work(_: Runtime) -> None:
            rt.tree()

        with pytest.raises(OwnThreadError, match="wait for itself"):
            rt.call(work)


def test_a_closed_runtime_says_so_and_leaves_no_thread() -> None:
    with dspex.sync.open_runtime(App(lm=ScriptedLM([]))) as rt:
        assert rt.tree().name == "dspex"
    with pytest.raises(RuntimeClosedError):
        rt.tree()
    assert not [it for it in threading.enumerate() if it.name == "dspex-runtime"]


@pytest.mark.parametrize("drain_timeout", [600.0, math.inf])
def test_the_thread_has_as_long_to_end_as_its_calls(
    drain_timeout: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    waited: list[float] = []
    join = threading.Thread.join

    def join_noted(thread: threading.Thread, timeout: float | None = None) -> None:
        if thread.name == "dspex-runtime" and timeout is not None:
            waited.append(timeout)
        join(thread, timeout)

    monkeypatch.setattr(threading.Thread, "join", join_noted)
    with dspex.sync.open_runtime(
        app(), drain_timeout=drain_timeout, shutdown_timeout=20
    ):
        pass
    assert waited == [min(drain_timeout + 20 + 30, threading.TIMEOUT_MAX)]
