import math

import hypothesis.strategies as st
import pytest
from hypothesis import given

from dspex.providers.limits import LimitBook, Limits


def grant_all(book: LimitBook, now: float) -> list[int]:
    granted: list[int] = []
    while (number := book.grant(now)) is not None:
        granted.append(number)
    return granted


def test_without_limits_everybody_goes_at_once() -> None:
    book = LimitBook(Limits(), 0.0)
    for number in range(100):
        book.ask(number, "", 1e9)
    assert grant_all(book, 0.0) == list(range(100))


def test_requests_a_minute_are_spread_evenly() -> None:
    book = LimitBook(Limits(requests_per_minute=120), 0.0)  # two a second
    for number in range(6):
        book.ask(number, "", 1)
    assert grant_all(book, 0.0) == [0, 1]
    assert book.wait(0.0) == pytest.approx(0.5)
    assert grant_all(book, 0.49) == []
    assert grant_all(book, 0.5) == [2]
    assert grant_all(book, 1.5) == [3, 4]


def test_a_burst_is_never_more_than_a_second_of_the_rate() -> None:
    book = LimitBook(Limits(requests_per_minute=600), 0.0)
    for number in range(100):
        book.ask(number, "", 1)
    assert len(grant_all(book, 1000.0)) == 10


def test_a_large_request_is_paid_off_by_those_after_it() -> None:
    book = LimitBook(Limits(tokens_per_minute=6000), 0.0)  # 100 a second
    book.ask(1, "", 1000)
    book.ask(2, "", 10)
    assert grant_all(book, 0.0) == [1]
    assert book.wait(0.0) == pytest.approx(9.1)
    assert grant_all(book, 9.1) == [2]


def test_real_usage_corrects_the_estimate() -> None:
    book = LimitBook(Limits(tokens_per_minute=6000), 0.0)
    book.ask(1, "", 100)
    book.ask(2, "", 100)
    assert grant_all(book, 0.0) == [1]
    book.settle(1, 40)
    assert book.wait(0.0) == pytest.approx(0.4)
    book.settle(1, 40)  # once is enough
    assert book.wait(0.0) == pytest.approx(0.4)


def test_concurrency_waits_for_an_end() -> None:
    book = LimitBook(Limits(concurrency=2), 0.0)
    for number in range(3):
        book.ask(number, "", 1)
    assert grant_all(book, 0.0) == [0, 1]
    assert book.wait(0.0) == math.inf
    book.settle(0, None)
    assert grant_all(book, 0.0) == [2]


def test_callers_take_turns() -> None:
    book = LimitBook(Limits(), 0.0)
    for number in range(4):
        book.ask(number, "greedy", 1)
    for number in range(10, 12):
        book.ask(number, "modest", 1)
    assert grant_all(book, 0.0) == [0, 10, 1, 11, 2, 3]


def test_a_pause_holds_everybody() -> None:
    book = LimitBook(Limits(), 0.0)
    book.ask(1, "", 1)
    book.pause(5.0)
    book.pause(3.0)
    assert book.wait(0.0) == 5.0
    assert grant_all(book, 4.9) == []
    assert grant_all(book, 5.0) == [1]


def test_it_slows_down_once_a_second_and_recovers_with_success() -> None:
    book = LimitBook(Limits(requests_per_minute=60, concurrency=8), 0.0)
    for _ in range(10):
        book.slow_down(0.0)
    assert book.statistics().factor == 0.5
    book.slow_down(1.0)
    assert book.statistics().factor == 0.25
    for number in range(9):
        book.ask(number, "", 1)
    assert len(grant_all(book, 1.0)) <= 2
    for number in range(9):
        book.grant(1000.0 + number * 100)
        book.settle(number, 1)
    assert book.statistics().factor == pytest.approx(0.25 + 9 * 0.02)


def test_a_grant_nobody_came_for_costs_nothing() -> None:
    book = LimitBook(Limits(requests_per_minute=60, tokens_per_minute=600), 0.0)
    book.ask(1, "", 10)
    book.ask(2, "", 10)
    assert grant_all(book, 0.0) == [1]
    book.refund(1)
    assert grant_all(book, 0.0) == [2]


def test_those_who_left_make_room() -> None:
    book = LimitBook(Limits(concurrency=1, max_waiting=2), 0.0)
    for number in range(3):
        book.ask(number, str(number), 1)
        book.grant(0.0)
    assert book.is_full
    book.keep(lambda number: number == 2)
    assert not book.is_full
    book.settle(0, None)
    assert grant_all(book, 0.0) == [2]


@given(
    st.integers(1, 600),
    st.lists(st.tuples(st.floats(0, 5), st.integers(0, 2)), max_size=60),
)
def test_the_rate_is_never_exceeded_and_all_get_their_turn(
    per_minute: int, asks: list[tuple[float, int]]
) -> None:
    book = LimitBook(Limits(requests_per_minute=per_minute), 0.0)
    now, granted = 0.0, 0
    for number, (pause, caller) in enumerate(asks):
        now += pause
        book.ask(number, str(caller), 1)
        granted += len(grant_all(book, now))
        assert granted <= max(1.0, per_minute / 60) + now * per_minute / 60 + 1e-6
    for _ in asks:
        wait = book.wait(now)
        now += 0.0 if wait == math.inf else wait
        granted += len(grant_all(book, now))
    assert granted == len(asks)
