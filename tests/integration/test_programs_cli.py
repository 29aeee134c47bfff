"""`dspex programs`: versions in a store, as a user sees them."""

import json
import sys
from pathlib import Path

import pytest
import trio

from dspex.runtime.engine import Program, Step
from dspex.testing import open_fake_provider
from tests.integration.dspex_command import PROGRAM, ROOT, dspex, schema_answers


async def test_versions_are_imported_listed_compared_and_rolled_back(
    tmp_path: Path,
) -> None:
    store = ("--store", tmp_path / "runs.db")
    first = await dspex("programs", "import", PROGRAM, *store, "--made-by", "hand")
    assert first.out.strip() == "triage@1", first.err
    exported = await dspex("programs", "export", "triage", *store)
    body = json.loads(exported.out)
    body["description"] = "changed"
    changed = tmp_path / "changed.json"
    await write(changed, json.dumps(body))
    assert (await dspex("programs", "import", changed, *store)).out == "triage@2\n"
    assert (await dspex("programs", "import", changed, *store)).out == "triage@2\n"
    difference = await dspex("programs", "diff", "triage@1", "triage@2", *store)
    assert difference.status == 1
    assert "+description: changed" in difference.out
    back = await dspex("programs", "rollback", "triage@1", *store)
    assert back.out == "triage@3\n"
    same = await dspex("programs", "diff", "triage@1", "triage@3", *store)
    assert (same.status, same.out) == (0, "")
    listed = await dspex("programs", "list", "--json", *store)
    rows = [(it["version"], it["parent"], it["made_by"]) for it in listed.rows]
    assert rows == [(1, None, "hand"), (2, 1, "import"), (3, 2, "rollback to 1")]
    missing = await dspex("programs", "export", "triage@9", *store)
    assert missing.status == 2
    assert "no program 'triage' in version 9" in missing.err


async def test_a_program_is_shown_as_a_graph_with_backends() -> None:
    shown = await dspex("programs", "show", PROGRAM)
    assert shown.status == 0, shown.err
    assert "classify  [native]" in shown.out
    assert "reply  [python]" in shown.out
    schema = json.loads((await dspex("programs", "schema")).out)
    assert {"name", "steps", "outputs"} <= set(schema["properties"])


async def test_a_module_that_dspy_does_not_have_is_told_before_the_graph(
    tmp_path: Path,
) -> None:
    program = tmp_path / "odd.yaml"
    text = "name: odd\nsteps:\n  one: {module: dspy.Perdict, backend: python, "
    await write(program, text + "signature: a -> b}\n")
    shown = await dspex("programs", "show", program)
    assert (shown.status, shown.out) == (2, "")
    assert "odd.yaml:3:" in shown.err
    assert "'dspy.Perdict'" in shown.err


async def test_the_resume_example_pays_nothing_twice() -> None:
    done = await trio.run_process(
        [sys.executable, ROOT / "examples/resume.py"],
        capture_stdout=True,
        capture_stderr=True,
        check=False,
    )
    out = done.stdout.decode()
    assert done.returncode == 0, done.stderr.decode()
    assert "worker ended with -9" in out
    assert "worker ended with 0" in out
    assert "20 calls were needed" in out


async def test_the_retrieval_example_finds_ranks_and_answers() -> None:
    async with open_fake_provider(schema_answers()) as server:
        done = await trio.run_process(
            [
                sys.executable, ROOT / "examples/rag/rag.py", "What is a mailbox?",
                "--lm", "openai:fake", "--base-url", server.url,
            ],
            capture_stdout=True,
            capture_stderr=True,
            check=False,
        )  # fmt: skip
    assert done.returncode == 0, done.stderr.decode()
    lines = done.stdout.decode().splitlines()
    assert [line.split(":")[0] for line in lines[:3]] == [
        "find (native)",
        "rank (python)",
        "answer (native)",
    ]
    assert lines[3] == "We are on it."


async def test_C1_a_python_step_feeds_a_native_one_and_both_get_inputs(  # noqa: N802
    tmp_path: Path,
) -> None:
    program = Program(
        name="c1",
        steps={
            "find": Step(
                module="dspy.Predict",
                backend="python",
                signature="question -> passage",
            ),
            "answer": Step(module="Predict", signature="question, passage -> answer"),
        },
    )
    path = tmp_path / "c1.json"
    await write(path, json.dumps(program.model_dump(mode="json")))
    async with open_fake_provider(schema_answers()) as server:
        model = ("--lm", "openai:fake", "--base-url", server.url)
        done = await dspex("run", path, "--json", "-i", "question=why is it so", *model)
    assert done.status == 0, done.err
    (run,) = done.rows
    assert {it["name"]: it["backend"] for it in run["steps"]} == {
        "find": "python",
        "answer": "native",
    }
    assert set(run["outputs"]) == {"passage", "answer"}
    bodies = [json.dumps(request.json["messages"]) for request in server.requests]
    assert len(bodies) == 2
    assert all("why is it so" in body for body in bodies)
    assert "We are on it." in bodies[1]


async def test_C9_a_saved_program_asks_the_same_in_another_process(  # noqa: N802
    tmp_path: Path,
) -> None:
    store = ("--store", tmp_path / "runs.db")
    step = Step(
        module="Predict",
        signature="question -> answer",
        instructions="Answer like a sailor.",
        demos=({"question": "Who goes there?", "answer": "A friend, ahoy!"},),
    )
    path, again = tmp_path / "c9.json", tmp_path / "again.json"
    program = Program(name="c9", steps={"answer": step})
    await write(path, json.dumps(program.model_dump(mode="json")))
    async with open_fake_provider(schema_answers()) as server:
        run = ("--json", "-i", "question=why", "--lm", "openai:fake")
        model = ("--base-url", server.url)
        first = await dspex("run", path, *run, *model, *store)
        exported = await dspex("programs", "export", "c9@1", *store)
        await write(again, exported.out)
        second = await dspex("run", again, *run, *model)
    assert (first.status, second.status) == (0, 0), first.err + second.err
    assert first.rows[0]["outputs"] == second.rows[0]["outputs"]
    one, other = (request.json["messages"] for request in server.requests)
    assert one == other
    assert "Answer like a sailor." in json.dumps(one)
    assert "A friend, ahoy!" in json.dumps(one)


async def write(path: Path, text: str) -> None:
    await trio.Path(path).write_text(text)


@pytest.mark.parametrize(
    ("module", "problem"),
    [
        ("dspy.Nope", "'dspy.Nope': there is no 'Nope'"),
        ("no_such_code:f", "there is no module 'no_such_code' on the search path"),
        ("json:nope", "'json:nope': there is no 'nope'"),
    ],
)
async def test_a_hosted_module_that_is_not_there_is_found_before_anything_runs(
    tmp_path: Path, module: str, problem: str
) -> None:
    path = tmp_path / "p.yaml"
    await write(
        path,
        "name: p\nsteps:\n  first:\n    module: Predict\n    signature: a -> b\n"
        f"  second:\n    backend: python\n    module: {module}\n"
        "    signature: b -> c\n",
    )
    async with open_fake_provider(schema_answers()) as server:
        model = ("--lm", "openai:fake", "--base-url", server.url)
        done = await dspex("run", path, "--json", "-i", "a=x", *model)
        assert server.requests == []
    assert done.status == 2
    assert done.err.startswith(f"dspex: {path}:8:5: step 'second': unknown module")
    assert problem in done.err
