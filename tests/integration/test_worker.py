"""`dspex worker` as a process: its life, its signals, its exit status."""

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import trio

from dspex.testing import open_fake_provider
from tests.integration.dspex_command import (
    argv,
    dspex,
    eventually,
    schema_answers,
)
from tests.integration.http_client import ask
from tests.integration.worker_process import INPUTS, PROGRAM, RUNS, open_process

pytest.importorskip("starlette")
pytest.importorskip("hypercorn")

DOOMED = """
import trio
from dspex import App, ChildSpec, Program, Step
from dspex.runtime import Actor

class Doomed(Actor):
    async def init(self):
        self.spawn(self.die)

    async def die(self):
        await trio.sleep(0.01)
        raise OSError("no disk")

step = Step(module="Predict", signature="ticket -> category")
app = App(
    Program(name="triage", steps={"classify": step}),
    children=[ChildSpec("doomed", Doomed)],
)
"""
COUNTING = """
from dspex import App, Module, Program, Step

def count(ticket):
    return {"words": len(ticket.split())}

class Shout(Module):
    async def forward(self, ticket):
        return {"shout": ticket.upper()}

app = App(
    Program(name="count", steps={
        "count": Step(module="counting:count", backend="python",
                      signature="ticket -> words: int"),
        "shout": Step(module="Shout", signature="ticket -> shout"),
    }),
    modules={"Shout": Shout},
)
"""


async def test_sigterm_lets_accepted_runs_finish_and_accepts_no_more(
    tmp_path: Path,
) -> None:
    async with (
        open_fake_provider(schema_answers(delay=1.0)) as provider,
        open_process(tmp_path, provider.url) as worker,
    ):
        accepted = await ask(worker.port, "POST", RUNS, INPUTS)
        assert await eventually(lambda: len(provider.requests) == 1, seconds=5)
        worker.popen.send_signal(signal.SIGTERM)
        worker.popen.send_signal(signal.SIGTERM)  # as `timeout` does it
        assert await eventually(lambda: worker.logged("worker_draining"), seconds=5)
        assert (await ask(worker.port, "POST", RUNS, INPUTS)).status == 503
        run = accepted.json["run_id"]
        done = await ask(worker.port, "GET", f"/v1/runs/{run}?wait=10")
        assert done.json["status"] == "succeeded"
        assert await worker.exit_status() == 0


async def test_a_killed_worker_leaves_its_runs_to_the_next_one(tmp_path: Path) -> None:
    store = str(tmp_path / "runs.db")
    async with open_fake_provider(schema_answers(delay=60)) as provider:
        async with open_process(tmp_path, provider.url, "--store", store) as worker:
            accepted = await ask(worker.port, "POST", RUNS, INPUTS)
            done = await ask(worker.port, "POST", f"{RUNS}?wait=0.1", INPUTS)
            assert (accepted.status, done.status) == (202, 202)
            worker.popen.kill()
            worker.popen.wait()
        provider.plan(schema_answers())
        async with open_process(tmp_path, provider.url, "--store", store) as worker:
            run = accepted.json["run_id"]
            finished = await ask(worker.port, "GET", f"/v1/runs/{run}?wait=20")
            assert finished.json["status"] == "succeeded"
            listed = (await ask(worker.port, "GET", "/v1/runs")).json["runs"]
            assert len(listed) == 2
            events = await ask(worker.port, "GET", f"/v1/runs/{run}/events")
            assert "event: finished" in events.text


@pytest.mark.parametrize("has_store", [False, True])
async def test_what_the_drain_is_too_short_for_is_told_by_the_exit_status(
    tmp_path: Path, has_store: bool
) -> None:
    store = ["--store", str(tmp_path / "runs.db")] if has_store else []
    async with (
        open_fake_provider(schema_answers(delay=60)) as provider,
        open_process(tmp_path, provider.url, "--drain-timeout", "2", *store) as worker,
    ):
        run = (await ask(worker.port, "POST", RUNS, INPUTS)).json["run_id"]
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask, worker.port, "GET", f"/v1/runs/{run}/events")
            assert await eventually(lambda: len(provider.requests) == 1, seconds=5)
            began = trio.current_time()
            worker.popen.send_signal(signal.SIGTERM)
            assert await worker.exit_status() == 1
            assert trio.current_time() - began < 3.8


async def test_more_runs_than_may_run_wait_in_the_store(tmp_path: Path) -> None:
    flags = ["--store", str(tmp_path / "runs.db"), "--max-running", "2"]
    async with (
        open_fake_provider(schema_answers(delay=60)) as provider,
        open_process(tmp_path, provider.url, *flags) as worker,
    ):
        for _ in range(4):
            assert (await ask(worker.port, "POST", RUNS, INPUTS)).status == 202
        assert await eventually(lambda: len(provider.requests) == 2, seconds=5)
        listed = (await ask(worker.port, "GET", "/v1/runs")).json["runs"]
        states = sorted(run["status"] for run in listed)
        assert states == ["pending", "pending", "running", "running"]


async def test_a_second_sigterm_ends_it_at_once(tmp_path: Path) -> None:
    async with (
        open_fake_provider(schema_answers(delay=60)) as provider,
        open_process(tmp_path, provider.url) as worker,
    ):
        await ask(worker.port, "POST", RUNS, INPUTS)
        worker.popen.send_signal(signal.SIGTERM)
        assert await eventually(lambda: worker.logged("worker_draining"), seconds=5)
        await trio.sleep(0.5)
        worker.popen.send_signal(signal.SIGTERM)
        assert await worker.exit_status() == -signal.SIGTERM


async def test_systemd_hears_that_it_is_ready_alive_and_stopping(
    tmp_path: Path,
) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        address = str(tmp_path / "notify")
        systemd.bind(address)
        systemd.setblocking(False)
        heard: list[bytes] = []

        def listen() -> bool:
            try:
                heard.append(systemd.recv(1_000))
            except BlockingIOError:
                return False
            return True

        async with (
            open_fake_provider(schema_answers()) as provider,
            open_process(
                tmp_path, provider.url,
                environment={"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "100000"},
            ) as worker,
        ):  # fmt: skip
            assert await eventually(lambda: listen() and len(heard) >= 4, seconds=5)
            worker.popen.send_signal(signal.SIGTERM)
            assert await worker.exit_status() == 0
        while listen():
            pass
    assert heard[0] == b"READY=1"
    assert heard.count(b"WATCHDOG=1") >= 3
    assert b"STOPPING=1" in heard


async def test_a_tree_that_gives_up_ends_the_process_with_3(tmp_path: Path) -> None:
    (tmp_path / "doomed.py").write_text(DOOMED)
    done = await dspex(
        "worker", "--app", "doomed:app", "--port", "0", "--lm", "openai:x",
        "--base-url", "http://127.0.0.1:9/v1", cwd=tmp_path,
    )  # fmt: skip
    assert done.status == 3, done.err
    assert '"event": "worker_gave_up"' in done.err
    assert "Traceback (most recent call last)" not in done.err.splitlines()[-1]


async def test_a_python_step_finds_the_module_of_the_app_and_a_module_is_served(
    tmp_path: Path,
) -> None:
    (tmp_path / "counting.py").write_text(COUNTING)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
    popen = subprocess.Popen(
        argv(
            "worker", "--app", "counting:app", "--port", str(port),
            "--lm", "openai:x", "--base-url", "http://127.0.0.1:9/v1",
        ),
        cwd=tmp_path, env=os.environ | {"OPENAI_API_KEY": "none"},
    )  # fmt: skip
    try:
        assert await eventually(lambda: is_open(port), seconds=60)
        path = "/v1/programs/count/runs?wait=30"
        done = await ask(port, "POST", path, {"inputs": {"ticket": "one two"}})
        assert done.json["outputs"] == {"words": 2, "shout": "ONE TWO"}, done.json
    finally:
        popen.terminate()
        assert popen.wait() == 0


def is_open(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ([], "--app (or DSPEX_APP) is needed and was not given; give module:attribute"),
        (["--app", "nope:app"], "no module 'nope'"),
        (["--app", "/nowhere"], "no such directory"),
        (["--app", "json:dumps_"], "has no 'dumps_'"),
        (["--app", "json:JSONDecoder"], "it is a JSONDecoder"),
        (["--app", "x:y", "--host", "0.0.0.0"], "DSPEX_TOKEN"),
        (["--app", "x:y", "--port", "99999"], "'port'"),
        (["--app", "x:y", "--config", "/nowhere.toml"], "/nowhere.toml"),
    ],
)
async def test_what_cannot_start_says_why_and_exits_with_2(
    flags: list[str], said: str
) -> None:
    done = await dspex("worker", *flags)
    assert done.status == 2
    assert said in done.err
    assert "Traceback" not in done.err


async def test_flags_go_before_the_environment_and_that_before_the_file(
    tmp_path: Path,
) -> None:
    file = tmp_path / "dspex.toml"
    file.write_text('port = 1111\nmax_runs = 11\ndrain_timeout = 1.5\nhost = "::1"\n')
    done = await dspex(
        "worker", "--config", file, "--port", "3333", "--max-running", "7",
        "--print-config",
        environment={"DSPEX_PORT": "2222", "DSPEX_MAX_RUNS": "22",
                     "DSPEX_TOKEN": "a-very-long-and-secret-token"},
    )  # fmt: skip
    assert done.status == 0, done.err
    assert "port = 3333" in done.out
    assert "max_runs = 22" in done.out
    assert "max_running = 7" in done.out
    assert "drain_timeout = 1.5" in done.out
    assert "secret-token" not in done.out


async def test_a_port_that_is_taken_is_named(tmp_path: Path) -> None:
    (tmp_path / "triage.yaml").write_text(PROGRAM)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = await dspex(
            "worker", "--app", tmp_path, "--port", str(port), "--lm", "openai:x",
            "--base-url", "http://127.0.0.1:9/v1",
        )  # fmt: skip
    assert done.status == 2
    assert str(port) in done.err


def test_the_core_does_not_import_what_only_the_worker_needs() -> None:
    script = (
        "import sys, dspex\n"
        "print([n for n in ('starlette', 'hypercorn', 'jinja2', 'prometheus_client',"
        " 'pydantic_settings', 'pytest') if n in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
