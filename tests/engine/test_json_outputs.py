"""An output that has no JSON form fails its step by name, and nothing else."""

from pathlib import Path
from typing import Any

import pytest
import trio

from dspex.modules import Module, Predict
from dspex.runtime.engine import Program, ProgramError, RunInputError, Step
from dspex.runtime.engine.errors import NotJsonError
from dspex.runtime.engine.json_text import json_problem, to_text
from dspex.runtime.engine.run import Run
from dspex.runtime.engine.runs import error_text
from dspex.testing import ScriptedLM
from dspex.worker.open_runtime import open_runtime


class _NoRepr:
    def __repr__(self) -> str:
        raise RuntimeError("no repr")


def _nested(levels: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(levels):
        value = [value]
    return value


def _cyclic() -> list[Any]:
    value: list[Any] = []
    value.append(value)
    return value


BAD: dict[str, tuple[Any, str]] = {
    "surrogate": ("x\ud800", "has a lone surrogate"),
    "bytes": (b"\xff", "has bytes that are not UTF-8"),
    "cycle": (_cyclic(), "contains itself"),
    "depth": (_nested(100_000), "is nested too deeply"),
    "repr": (_NoRepr(), "cannot be written as JSON: 'RuntimeError: no repr'"),
    "digits": (10**5_000, "has a whole number of more than 4300 digits"),
}


class Gives(Module):
    """Gives the bad value that it is asked for."""

    def __init__(self) -> None:
        self.ask = Predict("q -> r")

    async def forward(self, q: str) -> Any:
        if q == "model":
            return {"r": (await self.ask(q=q)).r}
        if q == "raise":
            raise ValueError("bad \ud800 text")
        return {"r": BAD[q][0] if q in BAD else q}


PROGRAM = Program(name="p", steps={"s": Step(module="Gives", signature="q -> r: Any")})


@pytest.mark.parametrize("stored", [False, True])
async def test_an_output_without_json_form_fails_its_run_alone(
    tmp_path: Path, *, stored: bool
) -> None:
    lm = ScriptedLM(lambda _: '{"r": "x\\ud800"}')
    store = tmp_path / "runs.db" if stored else None
    runs: dict[str, Run] = {}
    async with open_runtime(lm, store=store, modules={"Gives": Gives}) as rt:

        async def go(kind: str) -> None:
            runs[kind] = await rt.run_inputs(PROGRAM, {"q": kind})

        with trio.fail_after(20):
            async with trio.open_nursery() as nursery:
                for kind in (*BAD, "model", "raise", "good"):
                    nursery.start_soon(go, kind)
    assert runs.pop("good").outputs == {"r": "good"}
    assert r"ValueError: bad \ud800 text" in str(runs.pop("raise").error)
    for kind, run in runs.items():
        problem = BAD["surrogate" if kind == "model" else kind][1]
        said = f"StepOutputError: output 'r' of step 's' {problem}"
        assert said in str(run.error), kind
        assert str(run.steps[0].error).startswith(said)
        assert json_problem(run.to_json()) is None


@pytest.mark.parametrize("kind", list(BAD))
def test_text_is_given_or_the_problem_told(kind: str) -> None:
    value, problem = BAD[kind]
    assert str(json_problem({"a": [value]})).startswith(problem)
    if kind == "surrogate":
        assert to_text({"a": value}) == r'{"a": "x\ud800"}'
        return
    with pytest.raises(NotJsonError, match="a value "):
        to_text({"a": value})


def test_an_error_is_written_whatever_its_text_is() -> None:
    class RudeError(Exception):
        def __str__(self) -> str:
            raise RuntimeError

    assert "cannot be had: RuntimeError" in error_text(RudeError())
    assert error_text(ValueError("\ud800")).isascii()


@pytest.mark.parametrize("kind", ["surrogate", "bytes", "cycle", "depth", "digits"])
async def test_an_input_that_cannot_be_sent_is_refused_for_what_it_is(
    kind: str,
) -> None:
    value, problem = BAD[kind]
    step = Step(module="Gives", signature="q: Any -> r")
    asks = Program(name="p", steps={"s": step})
    async with open_runtime(ScriptedLM([]), modules={"Gives": Gives}) as rt:
        with pytest.raises(RunInputError, match=f"'q' .* cannot be sent: it {problem}"):
            await rt.run_inputs(asks, {"q": value})
        with pytest.raises(RunInputError, match="'q' of program 'p' "):
            await rt.run_inputs(PROGRAM, {"q": value})


def test_a_program_file_with_a_nul_in_its_name_is_refused() -> None:
    with pytest.raises(ProgramError, match="cannot read the program: embedded null"):
        Program.load("x\0.yaml")


@pytest.mark.parametrize(
    "extra",
    [
        {"inputs": {"q": {"value": "\ud800"}}},
        {"instructions": "\ud800"},
        {"options": {"default": {"r": _cyclic()}}},
    ],
)
async def test_a_program_without_json_form_is_refused_by_its_step(
    extra: dict[str, Any],
) -> None:
    step = {"module": "Gives", "signature": "q -> r", **extra}
    program = Program.model_validate({"name": "p", "steps": {"s": step}})
    async with open_runtime(ScriptedLM([]), modules={"Gives": Gives}) as rt:
        with pytest.raises(ProgramError, match="step 's': a value in it "):
            await rt.run_inputs(program, {"q": "x"})


async def test_what_a_run_gave_that_cannot_be_kept_fails_it(tmp_path: Path) -> None:
    default = {"r": "kept"}
    options = {"on_error": "default", "default": default}
    step = {"module": "Gives", "signature": "q -> r: Any", "options": options}
    program = Program.model_validate({"name": "p", "steps": {"s": step}})
    lm = ScriptedLM([])
    async with open_runtime(
        lm, store=tmp_path / "runs.db", modules={"Gives": Gives}
    ) as rt:
        assert (await rt.run_inputs(program, {"q": "raise"})).outputs == {"r": "kept"}
        # After the plan was made: what no check before the end can see.
        given = program.steps["s"].options.default
        assert isinstance(given, dict)
        given["r"] = "\ud800"
        with trio.fail_after(10):
            run = await rt.run_inputs(program, {"q": "raise"})
            assert "what the run gave has a lone surrogate" in str(run.error)
            given["r"] = "kept"
            again = await rt.run_inputs(program, {"q": "raise"})
        assert again.status == "succeeded"
