"""The screen of `dspex top`: figures, the tree, what stands before models, crashes."""

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any, Final

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

JSON = dict[str, Any]  # Any: JSON

_STATES: Final = {
    "running": ("●", "green"),
    "suspended": ("‖", "blue"),
    "starting": ("◐", "yellow"),
    "restarting": ("◐", "yellow"),
    "stopping": ("◐", "yellow"),
}
_GONE: Final = ("✕", "red")
_LEVELS: Final = {"warn": ("▲", "yellow"), "critical": ("✕", "bold red")}
_BAR: Final = 8
_EIGHTHS: Final = " ▏▎▍▌▋▊▉█"
_CRASHES: Final = 5
# Lines that are not rows of the tree: the head, headings, and what is between.
_FRAME: Final = 8
_WIDE: Final = 100
_LOW: Final = 30


def draw(
    url: str,
    data: JSON,
    *,
    width: int,
    height: int | None,
    lost_seconds: float = 0.0,
) -> RenderableType:
    """Give the screen; with a `height` the tree is cut to what fits."""
    parts: list[JSON] = data["health"]
    is_low = height is not None and height < _LOW
    crashes: list[JSON] = data["crashes"][: 1 if is_low else _CRASHES]
    rows = list(_rows(data["tree"], "", ""))
    room = None
    if height is not None:
        room = max(5, height - _FRAME - len(parts) - len(crashes))
    shown: list[RenderableType] = [_head(url, data["overview"], lost_seconds), ""]
    shown.append(_tree(rows[:room], has_bars=width >= _WIDE))
    if room is not None and len(rows) > room:
        shown.append(Text(f"  {len(rows) - room} more rows do not fit", style="dim"))
    if parts:
        shown += ["", _health(parts)]
    if crashes:
        shown += ["", _crashes(crashes)]
    return Group(*shown)


def _head(url: str, about: JSON, lost_seconds: float) -> Text:
    head = Text(f"dspex {url}  ", style="bold")
    if lost_seconds:
        told = f" NO ANSWER for {lost_seconds:.0f} s: what you see is old "
        head.append(told, style="bold white on red")
    counts: dict[str, int] = about["counts"]
    tokens: dict[str, int] = about["tokens"]
    facts = [
        (f"{about['unfinished']} running", ""),
        (f"{about['per_minute']} in a minute", ""),
        (f"{counts.get('succeeded', 0)} succeeded", ""),
        (f"{counts.get('failed', 0)} failed", "red" if counts.get("failed") else ""),
        (f"{sum(tokens.values()):,} tokens", ""),
        (f"{about['actors']} actors", ""),
        (f"{about['crashes']} crashes", "yellow" if about["crashes"] else ""),
    ]
    head.append("\n")
    for place, (text, style) in enumerate(facts):
        head.append("  ·  " if place else "", style="dim")
        head.append(text, style=style or "default")
    return head


def _rows(row: JSON, first: str, rest: str) -> Iterator[tuple[str, JSON]]:
    yield first, row
    children: list[JSON] = row["children"]
    hidden: int = row["hidden"]
    for place, child in enumerate(children):
        is_last = place == len(children) - 1 and not hidden
        ahead = ("└─ ", "   ") if is_last else ("├─ ", "│  ")
        yield from _rows(child, rest + ahead[0], rest + ahead[1])
    if hidden:
        yield rest + "└─ ", {"hidden": hidden}


def _tree(rows: list[tuple[str, JSON]], *, has_bars: bool) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("actor", no_wrap=True, overflow="ellipsis")
    table.add_column("state", no_wrap=True)
    table.add_column("mailbox", no_wrap=True)
    table.add_column("peak", justify="right", no_wrap=True)
    table.add_column("restarts", justify="right", no_wrap=True)
    table.add_column("intensity", no_wrap=True)
    for guide, row in rows:
        name = Text(guide, style="dim")
        if "name" not in row:
            name.append(f"{row['hidden']:,} more, less busy", style="dim italic")
            table.add_row(name)
            continue
        style = "bold" if row["is_supervisor"] else "default"
        name.append(str(row["name"]), style=style)
        if has_bars:
            name.append(f" {row['kind']}", style="dim")
        icon, color = _STATES.get(row["state"], _GONE)
        restarts: int = row["restarts"]
        table.add_row(
            name,
            Text(f"{icon} {row['state']}", style=color),
            _mailbox(row, has_bars=has_bars),
            Text(str(row["high_water"]), style="" if row["high_water"] else "dim"),
            Text(f"↻ {restarts}" if restarts else "0", style="" if restarts else "dim"),
            _intensity(row, has_bars=has_bars),
        )
    return table


def _mailbox(row: JSON, *, has_bars: bool) -> Text:
    if not row["capacity"]:
        return Text()
    told = f"{row['depth']}"
    if row["waiting"]:
        told += f", {row['waiting']} wait for room"
    return _gauge(row["depth"], row["capacity"], row["mailbox_level"], told, has_bars)


def _intensity(row: JSON, *, has_bars: bool) -> Text:
    if not row["is_supervisor"]:
        return Text()
    told = f"{row['recent']} of {row['intensity']} in {row['period']:g} s"
    return _gauge(row["recent"], row["intensity"], row["level"], told, has_bars)


def _gauge(part: int, whole: int, level: str, told: str, has_bar: bool) -> Text:
    """Draw a bar of eighths; its level is a mark as well as a colour."""
    filled = min(8 * _BAR, -(-8 * _BAR * part // max(whole, 1)))
    full, eighths = divmod(filled, 8)
    bar = "█" * full + (_EIGHTHS[eighths] if eighths else "")
    mark, style = _LEVELS.get(level, ("", "blue"))
    text = Text()
    if has_bar:
        text.append(bar, style=style)
        text.append("·" * (_BAR - len(bar)) + " ", style="dim")
    text.append(told, style=style if level else "default" if part else "dim")
    text.append(f" {mark}" if mark else "", style=style)
    return text


def _health(parts: list[JSON]) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), show_header=False)
    for part in parts:
        mark, style = _LEVELS.get(part["level"], ("●", "green"))
        table.add_row(
            Text.assemble((str(part["name"]), "default"), (f" {part['kind']}", "dim")),
            Text(f"{mark} {part['state']}", style=style),
            Text(str(part["facts"])),
        )
    return table


def _crashes(crashes: list[JSON]) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True, overflow="ellipsis")
    for crash in crashes:
        back: float | None = crash["back_after"]
        after = Text("✕ no successor", style="red")
        if back is not None:
            after = Text(f"↻ after {1_000 * back:,.1f} ms", style="green")
        at = datetime.fromtimestamp(crash["at"], UTC).strftime("%H:%M:%S")
        table.add_row(Text(at, style="dim"), crash["name"], after, crash["reason"])
    return table
