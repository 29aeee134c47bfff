"""OpenAI against a real HTTP server: failures, retries, deadlines, cancellation."""

from collections.abc import AsyncIterator

import pytest
import trio

from dspex.providers import (
    AuthenticationError,
    BadRequestError,
    ConnectionFailedError,
    ContextLengthError,
    MalformedResponseError,
    NotFoundError,
    PermissionDeniedError,
    ProviderError,
    ProviderTimeoutError,
    RateLimitError,
    ServerError,
)
from dspex.testing import (
    Action,
    Fail,
    FakeProvider,
    Hang,
    Raw,
    Reset,
    Truncate,
    open_fake_provider,
)
from tests.integration.openai_client import client


@pytest.fixture
async def server() -> AsyncIterator[FakeProvider]:
    async with open_fake_provider() as server:
        yield server


@pytest.mark.parametrize(
    ("failure", "kind", "attempts"),
    [
        (Fail(400), BadRequestError, 1),
        (Fail(400, code="context_length_exceeded"), ContextLengthError, 1),
        (Fail(401), AuthenticationError, 1),
        (Fail(403), PermissionDeniedError, 1),
        (Fail(404), NotFoundError, 1),
        (Fail(422), BadRequestError, 1),
        (Fail(429, code="insufficient_quota"), RateLimitError, 1),
        (Fail(408), ServerError, 3),
        (Fail(409), ServerError, 3),
        (Fail(429), RateLimitError, 3),
        (Fail(500), ServerError, 3),
        (Fail(503), ServerError, 3),
        (Raw(b"<html>busy</html>", status=502), ServerError, 3),
        (Raw(b"<html>hello</html>"), MalformedResponseError, 3),
        (Raw(b"[1, 2]"), MalformedResponseError, 3),
        (Raw(b'{"choices": []}'), MalformedResponseError, 3),
        (Raw(b'{"choices": [{"message": 3}]}'), MalformedResponseError, 3),
        (Raw(b"\xff\xfe"), MalformedResponseError, 3),
        (
            Raw(b"no gzip", headers={"content-encoding": "gzip"}),
            MalformedResponseError,
            3,
        ),
        (Reset(), ConnectionFailedError, 3),
        (Reset(after=200), ConnectionFailedError, 3),
        (Truncate(), ConnectionFailedError, 3),
    ],
)
async def test_a_failure_that_lasts_ends_in_its_typed_error(
    server: FakeProvider, failure: Action, kind: type[ProviderError], attempts: int
) -> None:
    server.plan(lambda _: failure)
    async with client(server) as lm:
        with pytest.raises(kind) as caught:
            await lm.complete("x")
        assert len(server.requests) == attempts
        assert len(caught.value.attempts) == attempts
        assert caught.value.model == "gpt-4o-mini"
        assert caught.value.what_to_do
        server.plan([])
        assert (await lm.complete("x")).text == "ok"


@pytest.mark.parametrize(
    "failure",
    [Fail(500), Fail(429), Raw(b"rubbish"), Reset(), Reset(after=200), Truncate()],
)
async def test_a_failure_that_passes_is_not_seen(
    server: FakeProvider, failure: Action
) -> None:
    server.plan([failure, failure])
    async with client(server) as lm:
        assert (await lm.complete("x")).text == "ok"
    assert len(server.requests) == 3


async def test_nobody_listens() -> None:
    async with open_fake_provider() as server:
        pass
    async with client(server) as lm:
        with pytest.raises(ConnectionFailedError, match="could not connect") as caught:
            await lm.complete("x")
    assert server.url in str(caught.value)
    assert len(caught.value.attempts) == 3


async def test_a_silent_server_ends_at_the_deadline(server: FakeProvider) -> None:
    server.plan([Hang()])
    async with client(server) as lm:
        with pytest.raises(ProviderTimeoutError, match=r"no answer within 0\.2 s"):
            await lm.complete("x", timeout=0.2)
        assert (await lm.complete("x")).text == "ok"
    with trio.fail_after(2):
        while server.disconnects == 0:
            await trio.sleep(0.01)


async def test_a_retry_after_beyond_the_deadline_fails_at_once(
    server: FakeProvider,
) -> None:
    server.plan([Fail(429, headers={"retry-after": "60"})])
    async with client(server) as lm:
        with trio.fail_after(1), pytest.raises(RateLimitError) as caught:
            await lm.complete("x", timeout=30)
    assert caught.value.retry_after == 60
    assert caught.value.request_id == "req_fake"


async def test_a_retry_after_is_waited_for(server: FakeProvider) -> None:
    server.plan([Fail(429, headers={"retry-after-ms": "150"})])
    async with client(server) as lm:
        response = await lm.complete("x")
    assert response.seconds >= 0.15


async def test_a_cancelled_call_leaves_a_usable_client(server: FakeProvider) -> None:
    server.plan([Hang()])
    async with client(server) as lm:
        with trio.move_on_after(0.05) as scope:
            await lm.complete("x")
        assert scope.cancelled_caught
        assert (await lm.complete("x")).text == "ok"
