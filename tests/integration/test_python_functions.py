"""Python functions as steps: what they give is what their signature declares."""

from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path

import pytest
import trio

from dspex import App, Program, Step, open_runtime
from dspex.modules.errors import HostedOutputError
from dspex.modules.hosted import HostedBackend
from dspex.modules.hosted_module import Hosted
from dspex.runtime import ActorRef, open_node
from dspex.runtime.bridge import DspyPool, Limits, PoolSettings
from dspex.runtime.engine import (
    MissingOutputError,
    ProgramError,
    StepFailedError,
    StepOutputError,
    TooManyDispatchesError,
)
from dspex.testing import ScriptedLM
from dspex.worker.app import Runtime
from dspex.worker.application import open_app
from dspex.worker.settings import SettingsError, WorkerSettings, read_settings

GIVEN = "def give(what):\n    return what\n"


@pytest.fixture
async def rt(tmp_path: Path) -> AsyncIterator[Runtime]:
    (tmp_path / "given.py").write_text(GIVEN)
    async with open_runtime(ScriptedLM([]), search_path=[tmp_path]) as rt:
        yield rt


def giving(outputs: str) -> Program:
    signature = f"what: dict -> {outputs}"
    step = Step(module="given:give", backend="python", signature=signature)
    taking = Step(
        module="given:give",
        backend="python",
        signature="what: int -> z",
        inputs={"what": "a.y"},
    )
    return Program(name="p", steps={"a": step, "b": taking}, outputs={"y": "a.y"})


async def test_an_output_that_is_left_out_is_the_error_of_its_step(rt: Runtime) -> None:
    run = await rt.run(giving("y: int"), what={"z": 1})
    assert run.steps[0].state == "failed"
    assert isinstance(run.error, StepFailedError)
    cause = run.error.__cause__
    assert isinstance(cause, MissingOutputError)
    assert str(cause).startswith("step 'a' gave no output 'y'")
    assert str(cause).endswith("; it gave: z")


@pytest.mark.parametrize(
    ("outputs", "given", "kept"),
    [
        ("y: int", "3", 3),
        ("y: int", 3, 3),
        ("y: float", 3, 3.0),
        ("y: list[int]", ["1", 2], [1, 2]),
        ("y", [1, {"two": 2}], [1, {"two": 2}]),  # without a type: any
    ],
)
async def test_an_output_is_read_as_its_type(
    rt: Runtime, outputs: str, given: object, kept: object
) -> None:
    program = giving(outputs)
    alone = program.model_copy(update={"steps": {"a": program.steps["a"]}})
    run = await rt.run(alone, what={"y": given})
    assert run.outputs["y"] == kept
    assert type(run.outputs["y"]) is type(kept)


@pytest.mark.parametrize(
    ("outputs", "given", "problem"),
    [
        ("y: int", "not an int", "is 'not an int', not int: input should be"),
        ("y: list[int]", [1, "two"], r"is \[1, 'two'\], not list\[int\]: 1: "),
        ("y: str", 3, "is 3, not str: input should be a valid string"),
    ],
)
async def test_an_output_of_another_type_is_the_error_of_its_step(
    rt: Runtime, outputs: str, given: object, problem: str
) -> None:
    program = giving(outputs)
    alone = program.model_copy(update={"steps": {"a": program.steps["a"]}})
    run = await rt.run(alone, what={"y": given})
    assert run.steps[0].state == "failed"
    assert run.error is not None
    with pytest.raises(StepOutputError, match=f"output 'y' of step 'a' {problem}"):
        raise run.error.__cause__ or run.error


async def test_a_hosted_module_checks_its_outputs_too(tmp_path: Path) -> None:
    (tmp_path / "given.py").write_text(GIVEN)
    async with open_node() as node:
        settings = PoolSettings(spares=0)
        pool = await node.start(DspyPool(settings, search_path=[tmp_path]))
        give = Hosted("given:give", "what: dict -> y: int", pool=pool)
        lm = ScriptedLM([])
        prediction = await give.run({"what": {"y": "3"}}, lm=lm)
        assert prediction.y == 3
        with pytest.raises(HostedOutputError, match="'y' of given:give is 'no', not"):
            await give.run({"what": {"y": "no"}}, lm=lm)
        with pytest.raises(HostedOutputError, match="'y' of given:give is missing; it"):
            await give.run({"what": {"z": 1}}, lm=lm)


@pytest.mark.parametrize(
    ("death", "how"),
    [
        ("os._exit(1)", "with exit status 1"),
        ("ctypes.string_at(0)", "by SIGSEGV"),
    ],
)
async def test_a_function_that_ends_its_process_is_run_three_times(
    tmp_path: Path, death: str, how: str
) -> None:
    (tmp_path / "deadly.py").write_text(
        "import ctypes, os\n"
        "def charge(file):\n"
        "    with open(file, 'a') as it:\n"
        "        it.write('charged ')\n"
        f"    {death}\n"
    )
    step = Step(module="deadly:charge", backend="python", signature="file -> ok: bool")
    async with open_runtime(ScriptedLM([]), search_path=[tmp_path]) as rt:
        charges = tmp_path / "charges"
        run = await rt.run(Program(name="pay", steps={"a": step}), file=str(charges))
    assert charges.read_text().split() == ["charged"] * 3
    assert run.error is not None
    cause = run.error.__cause__
    assert isinstance(cause, TooManyDispatchesError)
    assert f"{how} during deadly:charge" in str(cause)
    assert "options.max_crashes" in str(cause)


HUNGRY = "def eat(megabytes):\n    return {'ate': len(bytearray(megabytes << 20))}\n"


async def test_the_pool_of_python_steps_has_the_limits_it_is_given(
    tmp_path: Path,
) -> None:
    (tmp_path / "hungry.py").write_text(HUNGRY)
    signature = "megabytes: int -> ate: int"
    step = Step(module="hungry:eat", backend="python", signature=signature)
    app = App(Program(name="eat", steps={"a": step}), lm=ScriptedLM([]))
    settings = WorkerSettings(app="a:b", pool_max=2, pool_memory_bytes=200 << 20)
    async with open_app(app, search_path=[tmp_path], pool=settings.pool) as rt:
        little = await rt.run("eat", megabytes=20)
        much = await rt.run("eat", megabytes=400)
    assert little.outputs["ate"] == 20 << 20
    assert "MemoryError" in str(much.error)
    own = PoolSettings(limits=Limits(memory_bytes=80_000_000))
    limited = App(*app.programs, pool=own).with_lm(ScriptedLM([]))
    async with open_app(limited, search_path=[tmp_path], pool=settings.pool) as rt:
        run = await rt.run("eat", megabytes=100)
    assert "MemoryError: this process may allocate 80 MB (Limits.m" in str(run.error)


WAITING = (
    "import pathlib, time\n"
    "def wait(file):\n"
    "    while not pathlib.Path(file).exists():\n"
    "        time.sleep(0.01)\n"
    "    return {'ok': True}\n"
)


async def test_a_program_is_loaded_while_every_process_is_busy(tmp_path: Path) -> None:
    (tmp_path / "waiting.py").write_text(WAITING)
    (tmp_path / "given.py").write_text(GIVEN)
    step = Step(module="waiting:wait", backend="python", signature="file -> ok: bool")
    waiting = Program(name="wait", steps={"a": step})
    settings = PoolSettings(max_size=1, spares=0)
    async with (
        open_runtime(ScriptedLM([]), search_path=[tmp_path], pool=settings) as rt,
        trio.open_nursery() as nursery,
    ):
        await rt.load(waiting)
        file = tmp_path / "go on"
        nursery.start_soon(partial(rt.run, waiting, file=str(file)))
        pool = await hosted_pool(rt)
        while not (await pool.call(DspyPool.statistics)).busy:
            await trio.sleep(0.01)
        with trio.fail_after(20):
            await rt.load(giving("y: int"))
            away = step.model_copy(update={"module": "nowhere:wait"})
            with pytest.raises(ProgramError, match="there is no module 'nowhere'"):
                await rt.load(Program(name="away", steps={"a": away}))
        file.touch()


async def hosted_pool(rt: Runtime) -> ActorRef[DspyPool]:
    backend = rt.backend("python")
    assert isinstance(backend, HostedBackend)
    return await backend.pool()


def test_a_pool_is_not_smaller_than_its_least_size() -> None:
    with pytest.raises(SettingsError, match="pool_max is 2, less than pool_min, 3"):
        read_settings({"app": "a:b", "pool_min": 3, "pool_max": 2})
