import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio
import trio.testing
from trio.testing import MockClock

from dspex.providers import (
    Cached,
    CacheStore,
    Choice,
    ConfigurationError,
    MemoryStore,
    Message,
    ProviderTimeoutError,
    Request,
    Response,
    ServerError,
    SQLiteStore,
    TextDelta,
    ToolCall,
    ToolCallDelta,
    Usage,
)
from dspex.testing import ScriptedLM


@pytest.fixture(params=["memory", "sqlite"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[CacheStore]:
    if request.param == "memory":
        yield MemoryStore()
    else:
        store = SQLiteStore(tmp_path / "cache.db")
        yield store
        store.close()


def numbered(*, delay: float = 0.0) -> ScriptedLM:
    return ScriptedLM((f"answer {number}" for number in range(100)), delay=delay)


async def test_the_same_request_is_sent_once(store: CacheStore) -> None:
    lm = numbered()
    cached = Cached(lm, store)
    first = await cached.complete("x")
    assert await cached.complete("x") == first
    assert (await cached.complete("y")).text == "answer 1"
    warm = Request((Message.user("x"),), temperature=0.5)
    assert (await cached.complete(warm)).text == "answer 2"
    assert len(lm.requests) == 3
    assert (cached.hits, cached.misses) == (1, 3)


async def test_models_of_another_name_do_not_share(store: CacheStore) -> None:
    for name in ("a:m", "b:m"):
        lm = ScriptedLM([name], name=name)
        assert (await Cached(lm, store).complete("x")).text == name


async def test_an_answer_outlives_the_process(tmp_path: Path) -> None:
    for script in (["kept"], []):
        store = SQLiteStore(tmp_path / "cache.db")
        cached = Cached(ScriptedLM(script), store)
        assert (await cached.complete("x")).text == "kept"
        store.close()


async def test_an_old_answer_is_asked_for_anew(autojump_clock: MockClock) -> None:
    cached = Cached(numbered(), MemoryStore(), ttl_seconds=10)
    assert (await cached.complete("x")).text == "answer 0"
    await trio.sleep(9)
    assert (await cached.complete("x")).text == "answer 0"
    await trio.sleep(1)
    assert (await cached.complete("x")).text == "answer 1"


async def test_an_old_answer_in_a_file_is_asked_for_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1_000.0
    monkeypatch.setattr("time.time", lambda: now)
    store = SQLiteStore(tmp_path / "cache.db")
    cached = Cached(numbered(), store, ttl_seconds=10)
    assert (await cached.complete("x")).text == "answer 0"
    now = 1_009.0
    assert (await cached.complete("x")).text == "answer 0"
    now = 1_011.0
    assert (await cached.complete("x")).text == "answer 1"
    store.close()


@pytest.mark.parametrize("kind", ["memory", "sqlite"])
async def test_the_least_recently_used_go_first(kind: str, tmp_path: Path) -> None:
    store: MemoryStore | SQLiteStore
    if kind == "memory":
        store = MemoryStore(max_bytes=300)
    else:
        store = SQLiteStore(tmp_path / "cache.db", max_bytes=300)
    await store.put("a", b"x" * 100, None)
    await store.put("b", b"x" * 100, None)
    await store.put("c", b"x" * 100, None)
    assert await store.get("a") is not None
    await store.put("d", b"x" * 100, None)
    await store.put("huge", b"x" * 301, None)
    kept = [key for key in "abcd" if await store.get(key) is not None]
    assert kept == ["a", "c", "d"]
    assert await store.get("huge") is None
    if isinstance(store, SQLiteStore):
        store.close()


async def test_equal_requests_at_once_make_one_call(
    store: CacheStore, autojump_clock: MockClock
) -> None:
    lm = numbered(delay=0.01)
    cached = Cached(lm, store)
    texts: list[str] = []

    async def ask() -> None:
        texts.append((await cached.complete("x")).text)

    async with trio.open_nursery() as nursery:
        for _ in range(100):
            nursery.start_soon(ask)
    assert texts == ["answer 0"] * 100
    assert len(lm.requests) == 1


async def test_those_who_waited_share_a_failure_which_is_not_kept(
    autojump_clock: MockClock,
) -> None:
    down = ServerError("down", provider="p", status=500)
    lm = ScriptedLM([down, "up"], delay=1)
    cached = Cached(lm, MemoryStore())
    failed = 0

    async def ask() -> None:
        nonlocal failed
        try:
            await cached.complete("x")
        except ServerError:
            failed += 1

    async with trio.open_nursery() as nursery:
        for _ in range(5):
            nursery.start_soon(ask)
    assert failed == 5
    assert (await cached.complete("x")).text == "up"


@pytest.mark.parametrize("how", ["cancelled", "late"])
async def test_another_caller_takes_over_from_one_who_left(
    how: str, autojump_clock: MockClock
) -> None:
    lm = numbered(delay=2)
    cached = Cached(lm, MemoryStore())
    texts: list[str] = []

    async def leave() -> None:
        with trio.move_on_after(1 if how == "cancelled" else 100):
            with pytest.raises(ProviderTimeoutError):
                await cached.complete("x", timeout=1)

    async def stay() -> None:
        texts.append((await cached.complete("x", timeout=10)).text)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(leave)
        await trio.sleep(0.5)
        for _ in range(3):
            nursery.start_soon(stay)
    assert texts == ["answer 1"] * 3
    assert len(lm.requests) == 2


async def test_a_waiting_caller_keeps_its_own_deadline(
    autojump_clock: MockClock,
) -> None:
    cached = Cached(numbered(delay=10), MemoryStore())
    async with trio.open_nursery() as nursery:
        nursery.start_soon(cached.complete, "x")
        await trio.sleep(0.5)
        with pytest.raises(ProviderTimeoutError):
            await cached.complete("x", timeout=1)
        assert trio.current_time() == 1.5


async def test_a_damaged_entry_counts_as_a_miss(tmp_path: Path) -> None:
    store = SQLiteStore(tmp_path / "cache.db")
    cached = Cached(numbered(), store)
    await store.put(cached.key(Request.of("x")), b'{"choices": 3}', None)
    await store.put(cached.key(Request.of("y")), b"\xff", None)
    assert (await cached.complete("x")).text == "answer 0"
    assert (await cached.complete("y")).text == "answer 1"
    store.close()


async def test_a_store_that_fails_does_not_fail_the_call(tmp_path: Path) -> None:
    store = SQLiteStore(tmp_path / "cache.db")
    cached = Cached(numbered(), store)
    with sqlite3.connect(tmp_path / "cache.db") as other:
        other.execute("DROP TABLE answer")
    other.close()
    assert (await cached.complete("x")).text == "answer 0"
    assert (await cached.complete("x")).text == "answer 1"
    store.close()


class SlowStore:
    """Takes a minute for everything."""

    async def get(self, key: str) -> bytes | None:
        await trio.sleep(60)
        return None

    async def put(self, key: str, body: bytes, ttl: float | None) -> None:
        await trio.sleep(60)


@pytest.mark.parametrize("timeout", [None, 30.0])
async def test_a_slow_store_counts_as_a_miss_after_a_second(
    timeout: float | None, autojump_clock: MockClock
) -> None:
    cached = Cached(numbered(delay=5), SlowStore())
    assert (await cached.complete("x", timeout=timeout)).text == "answer 0"
    assert trio.current_time() == pytest.approx(1 + 5 + 1)
    async with cached.stream("x", timeout=timeout) as stream:
        assert (await stream.read()).text == "answer 1"
    assert trio.current_time() == pytest.approx(2 * (1 + 5 + 1))
    assert (cached.hits, cached.misses) == (0, 2)


async def test_a_slow_store_does_not_hold_a_call_past_its_timeout(
    autojump_clock: MockClock,
) -> None:
    lm = numbered(delay=5)
    cached = Cached(lm, SlowStore())
    with pytest.raises(ProviderTimeoutError, match=r"no answer within 0\.5 s"):
        await cached.complete("x", timeout=0.5)
    assert trio.current_time() == pytest.approx(0.5)
    assert lm.requests == []
    # What is kept late is not waited for, either.
    assert (await cached.complete("x", timeout=6.25)).text == "answer 0"
    assert trio.current_time() == pytest.approx(0.5 + 6.25)


def test_a_path_that_is_no_database_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "not.db"
    path.write_text("this is not a database, but long enough to look at" * 10)
    with pytest.raises(ConfigurationError, match=r"not\.db"):
        SQLiteStore(path)


async def test_a_stream_is_kept_when_it_was_read_to_its_end(store: CacheStore) -> None:
    lm = numbered()
    cached = Cached(lm, store)
    async with cached.stream("x") as stream:
        first = [delta async for delta in stream]
    assert len(first) > 1  # as it came from the model
    async with cached.stream("x") as again:
        assert (await again.read()) == stream.response
    assert await cached.complete("x") == stream.response
    assert len(lm.requests) == 1
    assert (cached.hits, cached.misses) == (2, 1)


async def test_a_stream_left_early_is_not_kept(store: CacheStore) -> None:
    lm = numbered()
    cached = Cached(lm, store)
    async with cached.stream("x") as stream:
        await anext(stream)
    async with cached.stream("x") as again:
        assert (await again.read()).text == "answer 1"


async def test_a_kept_answer_is_streamed_with_its_tool_calls() -> None:
    call = ToolCall("1", "search", '{"q": 1}')
    answer = Response((Choice("a", (call,)), Choice("b")), Usage(1, 2), "m")
    cached = Cached(ScriptedLM([answer]), MemoryStore())
    await cached.complete("x")
    async with cached.stream("x") as stream:
        deltas = [delta async for delta in stream]
    assert deltas == [
        TextDelta("a"),
        ToolCallDelta(0, '{"q": 1}', "1", "search"),
        TextDelta("b", 1),
    ]
    assert stream.response.choices == answer.choices


async def test_a_stream_waits_for_a_call_under_way(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    lm = numbered(delay=10)
    cached = Cached(lm, MemoryStore())
    nursery.start_soon(cached.complete, "x")
    await trio.testing.wait_all_tasks_blocked()
    async with cached.stream("x", timeout=20) as stream:
        assert (await stream.read()).text == "answer 0"
    assert len(lm.requests) == 1
