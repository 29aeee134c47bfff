from pathlib import Path
from typing import Self

import pytest

from dspex.providers import Message, ProviderError, Request, ServerError
from dspex.testing import (
    CassetteError,
    RecordedError,
    RecordingLM,
    ReplayLM,
    ScriptedLM,
)

DOWN = ServerError("down", provider="p", model="m", status=503)
WARM = Request((Message.user("x"),), temperature=1.0)


async def record(path: Path) -> None:
    lm = RecordingLM(ScriptedLM(["one", "two", DOWN, "warm"], name="p:m"), path)
    assert (await lm.complete("x")).text == "one"
    assert (await lm.complete("x")).text == "two"
    with pytest.raises(ServerError):
        await lm.complete("y")
    assert (await lm.complete(WARM)).text == "warm"


async def test_what_was_recorded_is_said_again_in_order(tmp_path: Path) -> None:
    path = tmp_path / "tapes" / "calls.jsonl"
    await record(path)
    lm = ReplayLM(path)
    assert lm.name == "p:m"
    assert (await lm.complete(WARM)).text == "warm"
    assert (await lm.complete("x")).text == "one"
    assert (await lm.complete("x")).text == "two"
    with pytest.raises(RecordedError, match="ServerError: down") as caught:
        await lm.complete("y")
    assert isinstance(caught.value, ProviderError)
    assert (caught.value.kind, caught.value.status) == ("ServerError", 503)
    assert caught.value.retryable
    assert lm.left == 0


class Opened(ScriptedLM):
    is_open = False

    async def __aenter__(self) -> Self:
        self.is_open = True
        return self

    async def __aexit__(self, *_: object) -> None:
        self.is_open = False


async def test_both_stand_where_a_model_stands_that_is_opened(tmp_path: Path) -> None:
    inner = Opened(["one"])
    async with RecordingLM(inner, tmp_path / "tape") as lm:
        assert inner.is_open
        await lm.complete("x")
    assert not inner.is_open
    async with RecordingLM(ScriptedLM([]), tmp_path / "tape"):
        pass  # a model that has nothing to open
    async with ReplayLM(tmp_path / "tape") as replayed:
        assert (await replayed.complete("x")).text == "one"


async def test_streams_are_recorded_when_they_end_and_replayed(tmp_path: Path) -> None:
    script = ScriptedLM(["one answer", "left early", DOWN, "whole"], name="p:m")
    lm = RecordingLM(script, tmp_path / "tape")
    async with lm.stream("x") as stream:
        assert len([delta async for delta in stream]) == 3
    async with lm.stream("x") as stream:
        await stream.__anext__()
    with pytest.raises(ServerError):
        async with lm.stream("x"):
            pass
    await lm.complete("y")
    replayed = ReplayLM(tmp_path / "tape")
    async with replayed.stream("x") as stream:
        assert (await stream.read()).text == "one answer"
    with pytest.raises(RecordedError, match="ServerError"):
        async with replayed.stream("x"):
            pass
    async with replayed.stream("y") as stream:
        assert (await stream.read()).text == "whole"
    assert replayed.left == 0


@pytest.mark.parametrize(
    ("request_", "why"),
    [
        (Request.of("z"), "was not there.*'z'"),
        (Request((Message.user("x"),), temperature=0.5), "was not there"),
    ],
)
async def test_anything_else_is_refused(
    request_: Request, why: str, tmp_path: Path
) -> None:
    await record(tmp_path / "tape")
    with pytest.raises(CassetteError, match=why):
        await ReplayLM(tmp_path / "tape").complete(request_)


async def test_asking_more_often_than_recorded_is_refused(tmp_path: Path) -> None:
    await record(tmp_path / "tape")
    lm = ReplayLM(tmp_path / "tape")
    await lm.complete(WARM)
    with pytest.raises(CassetteError, match="less often"):
        await lm.complete(WARM)


@pytest.mark.parametrize("line", ["{", "[]", '{"model": "m"}'])
def test_a_damaged_cassette_is_refused_with_its_line(line: str, tmp_path: Path) -> None:
    good = '{"model": "m", "fingerprint": "f", "response": {}}'
    (tmp_path / "tape").write_text(f"{good}\n{line}\n")
    with pytest.raises(CassetteError, match="line 2"):
        ReplayLM(tmp_path / "tape")


def test_a_missing_cassette_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CassetteError, match="RecordingLM"):
        ReplayLM(tmp_path / "none")
