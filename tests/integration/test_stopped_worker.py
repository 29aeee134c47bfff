"""A worker stopped for longer than its lease has lost its runs when it goes on."""

import json
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from itertools import chain, repeat
from pathlib import Path

from dspex.providers import OpenAI
from dspex.testing import Answer, ProviderRequest, open_fake_provider
from dspex.worker.open_runtime import open_runtime
from tests.integration.dspex_command import ROOT, eventually
from tests.integration.stoppable_worker import LEASE_SECONDS


def answers(value: str, delay: float) -> Callable[[ProviderRequest], Answer]:
    """Give answers with a value; all but the first take so many seconds."""
    delays = chain([0.0], repeat(delay))

    def choose(request: ProviderRequest) -> Answer:
        schema = request.json["response_format"]["json_schema"]["schema"]
        text = json.dumps(dict.fromkeys(schema["properties"], value))
        return Answer(text, delay=next(delays))

    return choose


async def test_a_stopped_worker_writes_nothing_more_and_stops_its_run(
    tmp_path: Path,
) -> None:
    store = tmp_path / "runs.db"
    log = tmp_path / "worker.log"
    async with (
        open_fake_provider(answers("old", 1.5)) as server,
        open_fake_provider(answers("new", 0.0)) as other,
        OpenAI("fake", base_url=other.url, api_key="none") as lm,
    ):
        with log.open("w") as out:
            worker = subprocess.Popen(
                [
                    sys.executable,
                    "-m",
                    "tests.integration.stoppable_worker",
                    store,
                    server.url,
                ],
                cwd=ROOT,
                stdout=out,
            )
        try:
            # The second call is under way when the worker is stopped.
            assert await eventually(lambda: len(server.requests) == 2, seconds=30)
            worker.send_signal(signal.SIGSTOP)
            run = json.loads(log.read_text().splitlines()[0])["run"]
            async with open_runtime(lm, store=store, lease_seconds=LEASE_SECONDS) as rt:
                ended = await rt.result(run, timeout=20)
            worker.send_signal(signal.SIGCONT)
            assert await eventually(lambda: worker.poll() is not None, seconds=20)
        finally:
            worker.kill()
            worker.wait()
    assert [(it.live, it.journaled) for it in ended.steps] == [(0, 1), (1, 0), (1, 0)]
    # What the worker had kept before is used; what came after is the other's alone.
    assert ended.outputs == {"summary": "old", "category": "new", "reply": "new"}
    with closing(sqlite3.connect(store)) as connection:
        kept = connection.execute("SELECT path, response FROM effect").fetchall()
        state = connection.execute("SELECT state, epoch FROM run").fetchall()
    assert {path: "new" in response for path, response in kept} == {
        "first": False,
        "second": True,
        "third": True,
    }
    assert state == [("succeeded", 2)]
    # It went on, learned that the run is not its own, and asked for nothing more.
    assert len(server.requests) == 2
    told = [json.loads(line) for line in log.read_text().splitlines()]
    assert {it["event"] for it in told} & {"lease_lost", "run_interrupted"}
    assert told[-1] == {"event": "ended", "outputs": dict(ended.outputs)}
    assert worker.returncode == 0
