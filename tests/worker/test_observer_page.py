"""What the observer shows, as data; and that its page is small, safe and accessible."""

import re
from collections.abc import Iterator
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import pytest
import trio
import trio.testing

pytest.importorskip("starlette")
pytest.importorskip("hypercorn")
pytest.importorskip("jinja2")

from dspex.runtime import Actor, Node, open_node
from dspex.runtime.journal import ProgramVersion
from dspex.supervisors import ChildSpec, DynamicSupervisor, Supervisor
from dspex.worker.observer_crashes import Crashes
from dspex.worker.observer_tree import MOST_CHILDREN, Row, read_tree
from dspex.worker.observer_versions import plot, versions
from dspex.worker.observer_waterfall import short_time, ticks
from dspex.worker.service import FILES
from tests.worker.test_http_api import INPUTS, RUNS, TOKEN, open_worker


class Idle(Actor):
    """Does nothing."""


async def start_tree(node: Node, **options: float) -> Supervisor:
    children = [ChildSpec("steady", Idle, name="steady")]
    tree = Supervisor(
        [*children, ChildSpec("weak", Idle, name="weak")],
        intensity=int(options.get("intensity", 4)),
        period=options.get("period", 10.0),
    )
    await node.start(tree, name="top")
    return tree


async def crash(node: Node, name: str, reason: object) -> None:
    ref = node.registry.whereis(name)
    assert ref is not None
    ref.exit(reason)
    await ref.wait_exit()
    await node.registry.wait_for(name)


async def test_restarts_warn_at_half_of_the_intensity_and_at_all_of_it(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with open_node() as node:
        await start_tree(node)
        top = node.registry.whereis("top")
        assert top is not None
        seen = [read_tree(top).level]
        for _ in range(4):
            await crash(node, "weak", "planted")
            seen.append(read_tree(top).level)
        assert seen == ["", "", "warn", "warn", "critical"]
        weak = read_tree(top).children[1]
        assert (weak.name, weak.restarts) == ("weak", 4)
        await trio.sleep(20)
        assert read_tree(top).recent == 0


async def test_of_very_many_children_the_troubled_are_shown_and_the_rest_counted(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with open_node() as node:
        crowd = await node.start(DynamicSupervisor(intensity=9), name="crowd")
        for number in range(MOST_CHILDREN + 30):
            spec = ChildSpec(f"c{number}", Idle, name=f"c{number}")
            await crowd.call(DynamicSupervisor.start_child, spec)
        await crash(node, "c71", "planted")
        row = read_tree(crowd)
        assert (len(row.children), row.hidden) == (MOST_CHILDREN, 30)
        assert row.children[0].name == "c71"
        assert not row.is_open


@pytest.mark.parametrize(
    ("depth", "level"),
    [(0, ""), (49, ""), (50, "warn"), (99, "warn"), (100, "critical")],
)
def test_a_mailbox_warns_when_it_fills(depth: int, level: str) -> None:
    row = Row("a", "worker", 1, "running", depth, 100, 100)
    assert row.mailbox_level == level
    assert row.is_troubled == bool(level)
    assert row.share(1) == 40.0


async def test_a_crash_is_told_with_its_cause_its_successor_and_the_intensity(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with open_node() as node:
        crashes = Crashes(node.telemetry)
        await start_tree(node)
        assert crashes.timeline().listed == ()
        await crash(node, "weak", ValueError("planted"))
        steady = node.registry.whereis("steady")
        assert steady is not None
        steady.exit("normal")
        told = crashes.timeline()
        (it,) = told.listed
        assert (it.name, it.parent, it.reason) == ("weak", "top", "ValueError: planted")
        assert it.back_after == pytest.approx(0.0, abs=0.1)
        assert it.against == "1 of 4 in 10 s"
        assert (told.span, told.lanes[0].count) == ("1 min", 1)
        (mark,) = told.lanes[0].marks
        assert mark.is_back
        assert 980 <= mark.x <= 1_000
        crashes.close()
        await crash(node, "weak", "unseen")
        assert crashes.total == 1


@pytest.mark.parametrize(
    ("seconds", "labels"),
    [
        (1.0, ["0", "250 ms", "500 ms", "750 ms"]),
        (0.262, ["0", "100 ms", "200 ms"]),
        (90.0, ["0", "25 s", "50 s", "75 s"]),
        (7_200.0, ["0", "30 min", "1 h", "1 h 30 min"]),
    ],
)
def test_an_axis_has_round_numbers(seconds: float, labels: list[str]) -> None:
    found = ticks(seconds)
    assert [it.label for it in found] == labels
    assert all(0 <= it.x < 1_000 for it in found)
    assert short_time(3_725) == "1 h 2 min"


def version(number: int, demos: int, **scores: float) -> ProgramVersion:
    demo = [{"ticket": f"t{it}", "category": "x"} for it in range(demos)]
    step = {"module": "Predict", "signature": "ticket -> category", "demos": demo}
    body = {"steps": {"classify": step}}
    return ProgramVersion("triage", number, "d", body, None, "test", scores, 0.0)


def test_scores_are_plotted_by_metric_and_the_best_is_marked() -> None:
    saved = [version(1, 0), version(2, 1, f1=50, exact=40), version(3, 2, f1=80)]
    drawn = plot(saved)
    assert drawn is not None
    assert [line.metric for line in drawn.series] == ["f1", "exact"]
    f1 = drawn.series[0].points
    assert [it.is_best for it in f1] == [False, True]
    assert [it.y for it in f1] == [37.5, 0.0]
    assert [label for _, label in drawn.across] == ["v2", "v3"]
    assert [label for _, label in drawn.up] == ["0", "20", "40", "60", "80"]
    assert "version 3: f1 80" in drawn.told
    assert plot([version(1, 0)]) is None


def test_versions_tell_which_demos_came() -> None:
    newest, _, oldest = versions([version(1, 0), version(2, 1), version(3, 2)])
    assert (newest.parent, newest.demos) == (2, 2)
    assert newest.changes == ('+ classify demo: ticket="t1", category="x"',)
    assert oldest.changes == ()


# The page itself.


class Outline(HTMLParser):
    """What a screen reader and a linter would look at."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))

    def all(self, *tags: str) -> Iterator[dict[str, str]]:
        return (attributes for tag, attributes in self.elements if tag in tags)


async def pages() -> dict[str, str]:
    async with open_worker() as worker:
        run = (await worker.ask("POST", f"{RUNS}?wait=5", INPUTS)).json["run_id"]
        ref = worker.service.runtime.node.registry.whereis("triage/classify")
        assert ref is not None
        paths = [
            "/",
            "/login",
            f"/observer/runs/{run}",
            "/observer/programs/triage",
            f"/observer/actors/{ref.id}/kill",
        ]
        return {path: (await worker.ask("GET", path)).text for path in paths}


async def test_every_page_has_its_landmarks_names_and_labels() -> None:
    for path, text in (await pages()).items():
        page = Outline(text)
        tags = [tag for tag, _ in page.elements]
        assert [tags.count(it) for it in ("main", "header", "h1")] == [1, 1, 1], path
        ids = [it["id"] for _, it in page.elements if "id" in it]
        assert len(ids) == len(set(ids)), path
        for _, attributes in page.elements:
            for name in ("aria-labelledby", "for"):
                assert attributes.get(name, ids[0]) in ids, (path, attributes)
        for region in page.all("section", "nav", "dialog"):
            assert {"aria-label", "aria-labelledby"} & set(region), (path, region)
        labelled = {it["for"] for it in page.all("label") if "for" in it}
        for field in page.all("input"):
            is_inside = field["type"] == "checkbox"  # its label is around it
            assert is_inside or field["id"] in labelled, (path, field)
        assert all(it.get("scope") in ("row", "col") for it in page.all("th")), path
        levels = [int(tag[1]) for tag in tags if re.fullmatch("h[1-6]", tag)]
        assert all(b <= a + 1 for a, b in pairwise(levels)), (path, levels)


async def test_the_page_is_used_in_reading_order_and_by_names_that_tell_the_actor() -> (
    None
):
    page = Outline((await pages())["/"])
    assert all(
        "tabindex" not in it or int(it["tabindex"]) <= 0 for _, it in page.elements
    )
    links = [it["href"] for it in page.all("a")]
    assert links[0] == "#main"
    buttons = [it for it in page.all("button") if "formaction" in it]
    assert {it["aria-label"] for it in buttons} >= {
        "restart triage/classify", "suspend triage/classify", "kill triage/classify",
    }  # fmt: skip
    kills = [it for it in buttons if it["aria-label"].startswith("kill")]
    assert {it["formmethod"] for it in kills} == {"get"}


async def test_nothing_is_inline_and_nothing_comes_from_elsewhere() -> None:
    for path, text in (await pages()).items():
        for tag, attributes in Outline(text).elements:
            assert "style" not in attributes, (path, tag)
            assert not any(name.startswith("on") for name in attributes), (path, tag)
            for name in ("src", "href", "action", "formaction"):
                assert "//" not in attributes.get(name, ""), (path, attributes)


async def test_whoever_has_no_token_sees_no_page() -> None:
    async with open_worker(token=TOKEN) as worker:
        for path in ("/observer/stream", "/v1/tree", "/observer/actors/1/kill"):
            assert (await worker.ask("GET", path)).status == 401
            assert (await worker.ask("POST", path)).status == 401


def test_the_script_and_style_are_small() -> None:
    scripts = [it for it in Path(FILES).iterdir() if it.suffix == ".js"]
    assert [it.name for it in scripts] == ["observer.js"]
    assert scripts[0].stat().st_size <= 40_000
    assert (FILES / "observer.css").stat().st_size <= 40_000


def colors() -> list[dict[str, str]]:
    """Give the colours by name, of the light and the dark page."""
    css = (FILES / "observer.css").read_text()
    light, dark = (
        dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6});", block))
        for block in re.findall(r":root \{(.*?)\}", css, re.DOTALL)
    )
    return [light, dark]


def contrast(one: str, other: str) -> float:
    """Give WCAG's contrast ratio of two colours."""

    def luminance(color: str) -> float:
        parts = [int(color[at : at + 2], 16) / 255 for at in (1, 3, 5)]
        linear = [
            c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts
        ]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


TEXTS = [
    *((ink, paper) for paper in ("card", "paper")
      for ink in ("ink", "quiet", "busy", "good", "warn", "bad")),
    ("warn", "warn-paper"), ("bad", "bad-paper"), ("good", "good-paper"),
    ("busy", "busy-paper"), ("ink", "good-paper"), ("ink", "bad-paper"),
]  # fmt: skip


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
def test_text_can_be_read_and_marks_be_seen(scheme: int) -> None:
    has = colors()[scheme]
    for ink, paper in TEXTS:
        assert contrast(has[ink], has[paper]) >= 4.5, (ink, paper)
    for mark in ("busy", "good", "warn", "bad", "other", "edge"):
        assert contrast(has[mark], has["card"]) >= 3, mark
