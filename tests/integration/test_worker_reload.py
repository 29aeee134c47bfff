"""SIGHUP: a worker loads its app again, and loses no run."""

import json
import os
import signal
import subprocess
from pathlib import Path

import pytest

from dspex.testing import open_fake_provider
from tests.integration.dspex_command import (
    argv,
    eventually,
    schema_answers,
)
from tests.integration.http_client import ask
from tests.integration.worker_process import INPUTS, PROGRAM, RUNS, open_process

pytest.importorskip("starlette")
pytest.importorskip("hypercorn")

IMPORTING = """
from dspex import App
from its.programs import PROGRAM

app = App(PROGRAM)
"""
IMPORTED = """
from dspex import Program, Step

OUTPUT = "{output}"
PROGRAM = Program(name="named", steps={{
    "name": Step(module="its.words:name", backend="python",
                 signature=f"ticket -> {{OUTPUT}}"),
}})
"""
WORDS = """
def name(ticket):
    return {{"{output}": "{text}"}}
"""


async def test_sighup_loads_changed_programs_and_loses_no_run(tmp_path: Path) -> None:
    async with (
        open_fake_provider(schema_answers(delay=1.0)) as provider,
        open_process(tmp_path, provider.url) as worker,
    ):
        before = (await ask(worker.port, "POST", RUNS, INPUTS)).json["run_id"]
        assert await eventually(lambda: len(provider.requests) == 1, seconds=5)
        programs = tmp_path / "programs"
        changed = PROGRAM.replace("-> category", "-> urgency")
        (programs / "triage.yaml").write_text(changed)
        (programs / "more.yaml").write_text(PROGRAM.replace("triage", "more"))
        worker.popen.send_signal(signal.SIGHUP)
        assert await eventually(lambda: worker.logged("reloaded"), seconds=5)
        after = await ask(worker.port, "POST", f"{RUNS}?wait=10", INPUTS)
        assert list(after.json["outputs"]) == ["urgency"]
        done = await ask(worker.port, "GET", f"/v1/runs/{before}?wait=10")
        assert list(done.json["outputs"]) == ["category"]
        names = (await ask(worker.port, "GET", "/v1/programs")).json["programs"]
        assert [it["name"] for it in names] == ["more", "triage"]

        (programs / "triage.yaml").write_text("name: [")
        worker.popen.send_signal(signal.SIGHUP)
        assert await eventually(lambda: worker.logged("reload_failed"), seconds=5)
        lines = worker.log.read_text().splitlines()
        (line,) = (it for it in lines if "reload_failed" in it)
        assert "triage.yaml:1:8: not valid YAML" in line
        assert "Traceback" not in line
        again = await ask(worker.port, "POST", f"{RUNS}?wait=10", INPUTS)
        assert list(again.json["outputs"]) == ["urgency"]


async def test_sighup_imports_what_the_app_imports_and_python_steps_anew(
    tmp_path: Path,
) -> None:
    own = tmp_path / "its"
    own.mkdir()
    (own / "__init__.py").touch()
    (tmp_path / "importing.py").write_text(IMPORTING)
    (own / "programs.py").write_text(IMPORTED.format(output="short"))
    (own / "words.py").write_text(WORDS.format(output="short", text="a"))
    log = tmp_path / "log"
    with log.open("wb") as sink:
        popen = subprocess.Popen(
            argv(
                "worker", "--app", "importing:app", "--port", "0",
                "--lm", "openai:x", "--base-url", "http://127.0.0.1:9/v1",
            ),
            cwd=tmp_path, stderr=sink, env=os.environ | {"OPENAI_API_KEY": "none"},
        )  # fmt: skip

    async def outputs() -> object:
        path = "/v1/programs/named/runs?wait=30"
        done = await ask(port, "POST", path, {"inputs": {"ticket": "?"}})
        return done.json["outputs"]

    async def reload(event: str, count: int) -> None:
        popen.send_signal(signal.SIGHUP)
        assert await eventually(
            lambda: log.read_text().count(f'"event": "{event}"') == count, seconds=10
        ), log.read_text()

    try:
        assert await eventually(lambda: "worker_ready" in log.read_text(), seconds=60)
        (ready,) = (it for it in log.read_text().splitlines() if "worker_ready" in it)
        port = int(json.loads(ready)["url"].rpartition(":")[2])
        for _ in range(3):  # several processes have imported it
            assert await outputs() == {"short": "a"}

        (own / "words.py").write_text(WORDS.format(output="short", text="longer"))
        await reload("reloaded", 1)
        for _ in range(3):
            assert await outputs() == {"short": "longer"}

        (own / "programs.py").write_text(IMPORTED.format(output="renamed"))
        (own / "words.py").write_text(WORDS.format(output="renamed", text="b"))
        await reload("reloaded", 2)
        assert await outputs() == {"renamed": "b"}

        (own / "programs.py").write_text("import its.words\nPROGRAM = 1 / 0\n")
        await reload("reload_failed", 1)
        assert "ZeroDivisionError" in log.read_text()
        assert await outputs() == {"renamed": "b"}

        (own / "programs.py").write_text(IMPORTED.format(output="renamed"))
        (own / "words.py").write_text("def name(:\n")
        await reload("reload_failed", 2)
        assert "its.words:name" in log.read_text()
    finally:
        popen.terminate()
        assert popen.wait() == 0
