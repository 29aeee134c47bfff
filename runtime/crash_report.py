"""Crash reports: who died, why, doing what, in which state; secrets left out."""

import itertools
import linecache
import re
import traceback
from collections.abc import Iterable, Mapping
from typing import Final, TypeVar, cast

from dspex.runtime.actor import Actor
from dspex.runtime.envelope import Request
from dspex.runtime.log import get_logger
from dspex.runtime.reasons import ExitReason, describe

T = TypeVar("T")

log = get_logger()

REDACTED: Final = "[redacted]"
_SECRET_NAME = re.compile(
    r"(?:pass(?:word|wd|phrase)?|secret|token|api_?key|authorization|credentials?"
    r"|private_?key|cookie|bearer)(?:$|_|s$)",
    re.IGNORECASE,
)
# Keys of providers and bearer headers inside longer texts.
_SECRET_TEXT = re.compile(r"\b(?:sk|pk|ghp|xox[abp])[-_][\w-]{8,}|(?i:bearer)\s+\S+")
_MAX_FIELDS = 20
_MAX_FRAMES = 20
_MAX_CHARACTERS = 200


def is_secret_name(name: str) -> bool:
    """Whether a field of this name must not reach a log."""
    return _SECRET_NAME.search(name) is not None


def summarise(value: object) -> str:
    """Give a value as one short text with secrets left out."""
    if isinstance(value, Mapping):
        mapping = cast("Mapping[object, object]", value)
        pairs = (
            f"{key!r}: {REDACTED if is_secret_name(str(key)) else summarise(item)}"
            for key, item in _first(mapping.items())
        )
        return _cut("{" + ", ".join(pairs) + "}")
    if isinstance(value, str | bytes):
        value = value[: 2 * _MAX_CHARACTERS]
    elif isinstance(value, list | tuple | set | frozenset | dict):
        items = cast("list[object]", value)
        return _cut("[" + ", ".join(summarise(item) for item in _first(items)) + "]")
    try:
        text = repr(value)
    except Exception as error:  # noqa: BLE001 - a report must not crash on a bad repr
        text = f"<{type(value).__name__}: repr raised {type(error).__name__}>"
    return _cut(_SECRET_TEXT.sub(REDACTED, text))


def summarise_state(actor: Actor) -> dict[str, str]:
    """Give an actor's attributes in short, secrets left out."""
    fields = cast("dict[str, object]", getattr(actor, "__dict__", {}))
    return {
        name: REDACTED if is_secret_name(name) else summarise(value)
        for name, value in _first(fields.items())
        if not name.startswith("_")
    }


def _summarise_call(method: object, arguments: tuple[object, ...]) -> str:
    name = getattr(method, "__name__", "?")
    code = getattr(method, "__code__", None)
    names: tuple[str, ...] = getattr(code, "co_varnames", ())[1:]
    given = ", ".join(
        f"{parameter}={REDACTED if is_secret_name(parameter) else summarise(value)}"
        for parameter, value in itertools.zip_longest(
            names[: len(arguments)], arguments, fillvalue="?"
        )
    )
    return _cut(f"{name}({given})")


def report_crash(
    actor: Actor, name: str, reason: ExitReason, handling: Request | None
) -> None:
    """Log an actor's crash: who, why, the last message, the state in short."""
    last: str | None = None
    if handling is not None:
        last = _summarise_call(handling.method, handling.arguments)
    # As text: loggers that render exceptions themselves may show local variables.
    trace = _trace(reason) if isinstance(reason, BaseException) else None
    log.error(
        "actor_crashed",
        actor=name,
        actor_class=type(actor).__qualname__,
        reason=_cut(_SECRET_TEXT.sub(REDACTED, describe(reason))),
        last_message=last,
        state=summarise_state(actor),
        exception=None if trace is None else _SECRET_TEXT.sub(REDACTED, trace),
    )


def _trace(error: BaseException) -> str:
    if (
        hasattr(error, "exceptions")  # a group
        or error.__cause__ is not None
        or (error.__context__ is not None and not error.__suppress_context__)
    ):
        return "".join(traceback.format_exception(error, limit=_MAX_FRAMES))
    # The module traceback takes 70 us, a fifth of the whole restart: it reads the
    # source of each line; here only that of the last.
    lines = ["Traceback (most recent call last):"]
    frame = error.__traceback__
    while frame is not None:
        code = frame.tb_frame.f_code
        lines.append(f'  File "{code.co_filename}", line {frame.tb_lineno}')
        lines[-1] += f", in {code.co_name}"
        if frame.tb_next is None:
            source = linecache.getline(code.co_filename, frame.tb_lineno).strip()
            lines.append(f"    {source}")
        frame = frame.tb_next
    lines.append(describe(error))
    return "\n".join(lines)


def _first(items: Iterable[T]) -> Iterable[T]:
    return itertools.islice(items, _MAX_FIELDS)


def _cut(text: str) -> str:
    return text if len(text) <= _MAX_CHARACTERS else text[:_MAX_CHARACTERS] + "..."
