"""What steps write, as each follower of a run is told it."""

from dataclasses import dataclass
from typing import Any

from dspex.worker.run_texts import RunTexts, StepTexts, TextCursor


@dataclass
class Told:
    last_seq: int = 3
    woken: int = 0

    def wake(self) -> None:
        self.woken += 1


def opened(
    run: Told | None = None, *fields: str
) -> tuple[RunTexts, StepTexts, TextCursor]:
    texts = RunTexts(run or Told(), is_kept=True)
    step = texts.step(("a", None), fields or ("x", "y"))
    return texts, step, TextCursor(texts)


def facts(cursor: TextCursor, *, after: int = 0) -> list[dict[str, Any]]:
    return [piece.facts for piece in cursor.take(after=after)]


def test_a_slow_follower_is_told_the_same_text_in_fewer_pieces() -> None:
    texts, step, quick = opened()
    slow = TextCursor(texts)
    source = step.open()
    pieces: list[str] = []
    for word in ("one ", "two ", "three"):
        step.add(source, "x", word)
        pieces += [it["text"] for it in facts(quick)]
    assert pieces == ["one ", "two ", "three"]
    assert facts(slow) == [
        {"step": "a", "field": "x", "text": "one two three", "offset": 0, "attempt": 1}
    ]
    assert facts(slow) == facts(quick) == []


def test_every_piece_wakes_the_followers_and_has_the_number_of_the_event_before() -> (
    None
):
    run = Told()
    _, step, cursor = opened(run)
    source = step.open()
    step.add(source, "x", "one")
    run.last_seq = 7
    step.add(source, "x", "two")
    assert run.woken == 2
    assert [it.after for it in cursor.take(after=0)] == [7]


def test_a_field_that_is_written_again_begins_the_text_anew() -> None:
    _, step, cursor = opened()
    first = step.open()
    step.add(first, "x", "wrong")
    step.add(first, "y", "too")
    facts(cursor)
    again = step.open()
    step.add(again, "x", "right")
    assert facts(cursor) == [
        {"step": "a", "field": "x", "text": "right", "offset": 0, "attempt": 2}
    ]
    step.add(again, "y", "as well")
    (told,) = facts(cursor)
    assert (told["text"], told["offset"], told["attempt"]) == ("as well", 0, 2)


def test_what_an_earlier_attempt_still_writes_is_passed_by() -> None:
    _, step, cursor = opened()
    first = step.open()
    step.add(first, "x", "wrong")
    again = step.open()
    step.add(again, "x", "right")
    step.add(first, "x", " more")
    step.add(first, "y", "too late")
    assert [(it["field"], it["text"]) for it in facts(cursor)] == [("x", "right")]


def test_two_calls_that_write_different_fields_share_an_attempt() -> None:
    _, step, cursor = opened()
    first, second = step.open(), step.open()
    step.add(second, "y", "b")
    step.add(first, "x", "a")
    step.add(second, "y", "b")
    told = [(it["field"], it["text"], it["attempt"]) for it in facts(cursor)]
    assert told == [("y", "bb", 1), ("x", "a", 1)]


def test_outputs_that_were_written_are_not_told_again() -> None:
    _, step, cursor = opened()
    source = step.open()
    step.add(source, "x", " one ")
    step.settle({"x": "one", "y": "two", "n": 3})
    told = [(it["field"], it["text"], it["attempt"]) for it in facts(cursor)]
    assert told == [("x", " one ", 1), ("y", "two", 1)]


def test_outputs_that_are_others_than_what_was_written_begin_anew() -> None:
    _, step, cursor = opened()
    source = step.open()
    step.add(source, "x", "one")
    step.add(source, "y", "two")
    step.settle({"x": "one", "y": "three"})
    told = [(it["field"], it["text"], it["attempt"]) for it in facts(cursor)]
    assert told == [("x", "one", 2), ("y", "three", 2)]


def test_who_has_read_an_event_is_not_told_the_text_before_it() -> None:
    run = Told(last_seq=3)
    texts, step, _ = opened(run)
    step.add(step.open(), "x", "before")
    run.last_seq = 5
    item = texts.step(("b", 2), ("x",))
    source = item.open()
    item.add(source, "x", "under way")
    later = TextCursor(texts)
    assert facts(later, after=5) == [
        {
            "step": "b",
            "item": 2,
            "field": "x",
            "text": "under way",
            "offset": 0,
            "attempt": 1,
        }
    ]
    item.add(source, "x", " still")
    (told,) = facts(later, after=5)
    assert (told["text"], told["offset"]) == (" still", 9)


def test_a_text_begun_anew_after_its_end_is_told_from_its_beginning() -> None:
    _, step, cursor = opened()
    step.settle({"x": "one"})
    facts(cursor)
    step.add(step.open(), "x", "two")
    (told,) = facts(cursor)
    assert (told["text"], told["offset"], told["attempt"]) == ("two", 0, 2)


def test_half_of_a_character_is_told_as_one_that_can_be_sent() -> None:
    _, step, cursor = opened()
    source = step.open()
    step.add(source, "x", "é\ud83d")
    (told,) = facts(cursor)
    told["text"].encode()
    step.settle({"x": "é\ud83d"})
    assert facts(cursor) == []


def test_a_step_that_begins_hides_no_text_of_those_before_it() -> None:
    texts = RunTexts(Told(), is_kept=True)
    first, second = (texts.step(("a", item), ("x",)) for item in (0, 1))
    cursor = TextCursor(texts)
    first.add(first.open(), "x", "one")
    texts.step(("a", 2), ("x",))
    second.add(second.open(), "x", "two")
    assert [it["text"] for it in facts(cursor)] == ["one", "two"]
