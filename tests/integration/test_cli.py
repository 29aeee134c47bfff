"""What `dspex run` prints and returns, on good input and on bad."""

import json
import re
import socket
import sys
from pathlib import Path
from typing import Any

import pytest

from dspex.providers import MissingPackageError
from dspex.providers.embedded_server import find_model, require_llama
from dspex.testing import (
    Action,
    Answer,
    Fail,
    Hang,
    ProviderRequest,
    Raw,
    open_fake_provider,
)
from tests.integration.dspex_command import (
    PROGRAM,
    TICKETS,
    dspex,
    schema_answers,
    shell,
)


async def test_one_input_gives_outputs_and_what_each_step_took() -> None:
    async with open_fake_provider(schema_answers()) as server:
        at = ("--lm", "openai:fake", "--base-url", server.url)
        done = await dspex("run", PROGRAM, "--input", "ticket=My invoice is wrong", *at)
        assert done.status == 0, done.err
        assert "category: billing" in done.out
        assert "reply (python): " in done.out
        assert done.err == ""

        done = await dspex("run", PROGRAM, "-i", "ticket=My invoice", "--json", *at)
        (row,) = done.rows
        assert row["status"] == "succeeded"
        assert row["error"] is None
        assert row["outputs"] == {
            "category": "billing",
            "urgency": "low",
            "reply": "We are on it.",
        }
        assert [(s["name"], s["backend"], s["restarts"]) for s in row["steps"]] == [
            ("classify", "native", 0),
            ("reply", "python", 0),
        ]
        assert all(step["usage"]["output_tokens"] == 5 for step in row["steps"])


async def test_bad_lines_are_named_and_the_others_run_in_order(tmp_path: Path) -> None:
    inputs = tmp_path / "in.jsonl"
    inputs.write_bytes(
        b'{"ticket": "one"}\n{"ticket": \n\n[1]\n{"tikcet": "x"}\n{"ticket": 7}\n'
        b'\xff\n{"ticket": "two"}\n'
    )
    async with open_fake_provider(schema_answers()) as server:
        done = await dspex(
            "run", PROGRAM, "--inputs", inputs, "--json",
            "--lm", "openai:fake", "--base-url", server.url,
        )  # fmt: skip
    assert done.status == 1
    assert [row["status"] for row in done.rows] == [
        "succeeded", "failed", "failed", "failed", "failed", "failed", "succeeded",
    ]  # fmt: skip
    errors = [row["error"] for row in done.rows]
    assert f"{inputs}:2:12: not JSON" in errors[1]
    assert f"{inputs}:4: not an object" in errors[2]
    assert f"{inputs}:5: input 'tikcet' of program 'triage' is not known" in errors[3]
    assert f"{inputs}:6: input 'ticket' of program 'triage' is 7, not str" in errors[4]
    assert f"{inputs}:7: not UTF-8" in errors[5]
    assert "Traceback" not in done.err


async def test_all_tickets_give_a_table() -> None:
    async with open_fake_provider(schema_answers()) as server:
        done = await dspex(
            "run", PROGRAM, "--inputs", TICKETS,
            "--lm", "openai:fake", "--base-url", server.url,
        )  # fmt: skip
    assert done.status == 0, done.err
    assert done.out.count("We are on it.") == 10


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("nope.yaml",), r"nope\.yaml: cannot read the program: No such file"),
        ((PROGRAM,), "input 'ticket' of program 'triage' is missing"),
        ((PROGRAM, "-i", "ticket"), "--input 'ticket' is not of the form NAME=VALUE"),
        ((PROGRAM, "-i", "tikcet=x"), "input 'tikcet' .* is not known"),
        ((PROGRAM, "--inputs", "nope.jsonl"), "nope.jsonl: cannot read: No such file"),
        ((PROGRAM, "-i", "ticket=x", "--lm", "x"), "--lm 'x' names no model: use emb"),
        ((PROGRAM, "-i", "ticket=x", "--lm", "openai:m"), "OPENAI_API_KEY"),
        (
            (PROGRAM, "-i", "ticket=x", "--lm", "openai:m", "--base-url", "ftp://x"),
            "base_url.*ftp://x",
        ),
    ],
)
async def test_bad_arguments_are_one_line_and_status_2(
    arguments: tuple[str, ...], message: str
) -> None:
    done = await dspex("run", *arguments)
    assert done.status == 2
    assert done.out == ""
    (line,) = done.err.splitlines()
    assert line.startswith("dspex: ")
    assert re.search(message, line)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("name: triage", "name: [triage", r"p\.yaml:\d+:\d+: not valid YAML"),
        (
            "module: Predict",
            "module: Perdict",
            "unknown module 'Perdict': use .*Predict.*; for a module of dspy itself",
        ),
        (
            "module: dspy.Predict",
            "module: dpsy.Predict",
            "unknown module 'dpsy.Predict'",
        ),
        ("backend: native", "backend: nativ", "unknown backend 'nativ'"),
        ("ticket: str ->", "ticket: strr ->", "signature .*strr"),
        ("ticket, category -> reply", "ticket, reply -> reply", "reply"),
        ("ticket: str ->", "ticket: str, reply ->", "in a cycle"),
        ("max_tokens: 40", "max_tokns: 40", r":\d+:\d+: .*'max_tokns' = 40 is unknown"),
        ("max_tokens: 40", "n: 1000000", "'n' = 1000000 .* less than or equal to 128"),
        ("max_tokens: 40", "lm: gpt", "'lm' = 'gpt' is no part of a step's config"),
        ("max_tokens: 40", "adapter: [1]", r"'adapter' = \[1\]"),
        ("urgency: low", "urgent: low", "'urgent' is no field; the fields are"),
        ("ticket: str ->", "ticket: List['exit()'] ->", "signature .*no type"),
    ],
)
async def test_bad_programs_are_one_complaint_and_status_2(
    tmp_path: Path, old: str, new: str, message: str
) -> None:
    program = tmp_path / "p.yaml"
    program.write_text(PROGRAM.read_text().replace(old, new, 1))
    done = await dspex(
        "run", program, "-i", "ticket=x", "--lm", "openai:m",
        "--base-url", "http://127.0.0.1:9/v1",
    )  # fmt: skip
    assert done.status == 2
    assert done.out == ""
    assert done.err.startswith(f"dspex: {program}:")
    assert re.search(message, done.err, re.DOTALL)
    assert "Traceback" not in done.err


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (Fail(401, "bad key"), "bad key.*401"),
        (Fail(429, "slow down"), "slow down.*429"),
        (Fail(500, "broken"), "broken.*500"),
        (Raw(b"<html>hello</html>"), "JSON"),
        (Raw(b'{"choices": 3}'), "choices"),
        (Hang(), "within 2 s"),
        (Answer("no JSON at all"), "category"),
    ],
)
async def test_a_bad_model_server_is_one_complaint_and_status_2(
    answer: Action, message: str
) -> None:
    def always(request: ProviderRequest) -> Action:
        return answer

    # Its tries and the pauses between them take a second or two.
    seconds = "2" if isinstance(answer, Hang) else "20"
    async with open_fake_provider(always) as server:
        done = await dspex(
            "run", PROGRAM, "-i", "ticket=x", "--json", "--timeout", seconds,
            "--lm", "openai:m", "--base-url", server.url,
        )  # fmt: skip
    assert done.status == 2
    (row,) = done.rows
    assert row["status"] == "failed"
    assert done.err.startswith("dspex: step 'classify' failed: ")
    assert re.search(message, done.err, re.DOTALL)
    assert "Traceback" not in done.err


async def test_a_model_server_that_refuses_is_named() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}/v1"
        done = await dspex(
            "run", PROGRAM, "-i", "ticket=x", "--lm", "openai:m", "--base-url", url
        )
    assert done.status == 2
    assert "could not connect" in done.err
    assert url in done.err


async def test_debug_shows_the_traceback() -> None:
    done = await dspex("run", "nope.yaml", "--debug")
    assert done.status == 2
    assert "Traceback" in done.err
    assert done.err.splitlines()[-1].startswith("dspex: nope.yaml: ")


async def test_logs_are_json_when_stderr_is_no_terminal(tmp_path: Path) -> None:
    async with open_fake_provider(schema_answers()) as server:
        done = await dspex(
            "run", PROGRAM, "-i", "ticket=x", "--log-level", "info",
            "--lm", "openai:fake", "--base-url", server.url,
        )  # fmt: skip
    events: list[dict[str, Any]] = [json.loads(line) for line in done.err.splitlines()]
    assert "dspy_process_started" in [event["event"] for event in events]


async def test_results_that_cannot_be_written_are_one_complaint() -> None:
    async with open_fake_provider(schema_answers()) as server:
        at = f"--lm openai:m --base-url {server.url}"
        run = f"{sys.executable} -m dspex run {PROGRAM} --inputs {TICKETS} --json {at}"
        full = await shell(f"{run} >/dev/full")
        closed = await shell(f"{run} >&-")
        gone = await shell(f"set -o pipefail; {run} | head -1")
        deaf = await shell(f"{run} 2>/dev/full")
    assert (full.status, closed.status, gone.status, deaf.status) == (2, 2, 141, 0)
    assert full.err.startswith("dspex: the results could not be written: ")
    assert closed.err.startswith("dspex: stdout is closed")
    assert len(full.err.splitlines()) == len(closed.err.splitlines()) == 1
    assert len(gone.rows) == 1
    assert gone.err == ""
    assert len(deaf.rows) == 10


async def test_a_file_without_inputs_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty.jsonl").write_text("\n\n")
    done = await dspex("run", PROGRAM, "--inputs", tmp_path / "empty.jsonl")
    assert done.status == 2
    assert "empty.jsonl: there is no input in it" in done.err


async def test_the_version_is_told() -> None:
    done = await dspex("--version")
    assert (done.status, done.out.split()[0]) == (0, "dspex")


async def test_doctor_gives_its_findings_as_json() -> None:
    done = await dspex("doctor", "--json")
    findings = [json.loads(line) for line in done.out.splitlines()]
    assert {"python", "dspex", "embedded model"} <= {it["name"] for it in findings}
    assert {it["state"] for it in findings} <= {"ok", "off", "bad"}
    assert done.status == any(it["state"] == "bad" for it in findings)


async def test_the_embedded_model_has_the_seconds_of_the_command_line() -> None:
    try:
        find_model()
        require_llama()
    except MissingPackageError as error:
        pytest.skip(str(error))
    ticket = ["--input", "ticket=My invoice is wrong"]
    done = await dspex("run", PROGRAM, *ticket, "--timeout", "0.1")
    assert done.status == 2
    assert "no answer within 0.1 s" in done.out + done.err
