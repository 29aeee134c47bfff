"""The wheel in an environment of its own, with nothing but what an extra names."""

import subprocess
from pathlib import Path

import pytest

from tests.integration.dspex_command import ROOT
from tests.integration.second_environment import Environment, make_environment


@pytest.fixture(scope="module")
def environment(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Environment:
    folder = tmp_path_factory.mktemp("second") / "environment"
    return make_environment(folder, wheel, extra="testing")


def test_g1_the_wheel_installs_and_runs_in_a_second_environment(
    environment: Environment, tmp_path: Path
) -> None:
    subprocess.run([*environment.pip, "check"], check=True)
    where = environment.run(
        "python", "-c", "import dspex; print(dspex.__file__)", cwd=tmp_path
    )
    assert where.stdout.startswith(str(environment.folder))
    # Nothing of the checkout's own environment comes along.
    absent = environment.run("python", "-c", "import dspy", cwd=tmp_path)
    assert "No module named 'dspy'" in absent.stderr
    help_text = environment.run("dspex", "--help", cwd=tmp_path)
    assert "worker" in help_text.stdout
    doctor = environment.run("dspex", "doctor", cwd=tmp_path)
    assert "'dspy>=3.4" in doctor.stdout
    assert "-> pip install 'dspex[local]' and pip install" in doctor.stdout
    for example in ("counter.py", "supervision_tree.py"):
        done = environment.run("python", ROOT / "examples" / example, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        assert done.stdout


PLUGIN = """
import socket

import pytest
import trio

from dspex import Program, Step
from dspex.providers import OpenAI
from dspex.testing import Answer, Fault, ScriptedLM, assert_restarted

STEP = Step(module="Predict", signature="ticket -> category")


@pytest.fixture
def scripted_lm():
    return ScriptedLM(lambda _: '{"category": "billing"}')


async def test_runtime(runtime, scripted_lm, faults):
    with faults(runtime.node, Fault("crash", "p/*", nth=1)) as harm:
        run = await runtime.run(Program(name="p", steps={"s": STEP}), ticket="x")
    assert run.steps[0].restarts == 1
    assert_restarted(harm, "p/s", times=1)
    assert len(scripted_lm.requests) == 1


async def test_the_runtime_has_a_clock_that_jumps(runtime):
    await trio.sleep(100_000)


async def test_provider(fake_provider):
    fake_provider.plan([Answer("hello")])
    async with OpenAI("m", base_url=fake_provider.url, api_key="k") as lm:
        assert (await lm.complete("x")).text == "hello"


async def test_cassette(cassette, fake_provider):
    fake_provider.plan([Answer("once")])
    make = lambda: OpenAI("m", base_url=fake_provider.url, api_key="k")
    async with cassette(make) as lm:
        assert (await lm.complete("x")).text == "once"


def test_network(no_network):
    with socket.socket() as it:
        for connect in (it.connect, it.connect_ex):
            with pytest.raises(AssertionError, match="192.0.2.1"):
                connect(("192.0.2.1", 80))
    with socket.socket(type=socket.SOCK_DGRAM) as it:
        with pytest.raises(AssertionError, match="192.0.2.1"):
            it.sendto(b"x", ("192.0.2.1", 53))
    for host in ("example.org", "127.example.org"):
        with pytest.raises(AssertionError, match="example.org"):
            socket.getaddrinfo(host, 80)


async def test_this_machine_is_no_network(no_network, fake_provider):
    async with OpenAI("m", base_url=fake_provider.url, api_key="k") as lm:
        assert (await lm.complete("x")).text == "ok"
"""

ALONE = """
import sys

import pytest

from dspex import Actor, ChildSpec, Supervisor, open_node
from dspex.runtime import CalleeExitedError
from dspex.testing import Fault, assert_every_caller_answered, assert_restarted


class Counter(Actor):
    async def init(self):
        self.count = 0

    async def add(self):
        self.count += 1
        return self.count


async def test_supervision_alone(faults, autojump_clock):
    async with open_node() as node:
        spec = ChildSpec("counter", Counter, name="counter")
        await node.start(Supervisor([spec]), name="root")
        with faults(node, Fault("crash", "counter", "add", nth=2)) as harm:
            counter = await node.registry.wait_for("counter")
            assert await counter.call(Counter.add) == 1
            with pytest.raises(CalleeExitedError):
                await counter.call(Counter.add)
            again = await node.registry.wait_for("counter")
            assert await again.call(Counter.add) == 1
        assert_restarted(harm, "counter", times=1)
        assert_every_caller_answered(harm)
"""


def test_a_project_with_only_the_extra_testing_has_the_fixtures(
    environment: Environment, tmp_path: Path
) -> None:
    (tmp_path / "test_it.py").write_text(PLUGIN)
    (tmp_path / "test_alone.py").write_text(ALONE)
    (tmp_path / "pytest.ini").write_text("[pytest]\ntrio_mode = true\n")

    def pytest_says(*arguments: str) -> str:
        return environment.run(
            "python", "-m", "pytest", "-q", *arguments, cwd=tmp_path
        ).stdout

    # Not recorded yet: the message says how to.
    first = pytest_says("-W", "error")
    assert "6 passed" in first, first
    assert "record it by pytest --dspex-record" in first
    assert "7 passed" in pytest_says("--dspex-record")
    recorded = tmp_path / "cassettes" / "test_it" / "test_cassette.jsonl"
    assert recorded.read_text().count("\n") == 1
    # The provider would answer, too; the cassette is what does.
    recorded.write_text(recorded.read_text().replace("once", "twice"))
    assert "1 failed, 6 passed" in pytest_says()
