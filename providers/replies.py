"""What an HTTP reply means: the typed error of a status, the wait it asks for."""

import re
import time
import zlib
from collections.abc import Mapping
from datetime import datetime
from email.utils import parsedate_to_datetime

import msgspec
from pydantic import SecretStr

from dspex.providers.errors import (
    AuthenticationError,
    BadRequestError,
    ContextLengthError,
    NotFoundError,
    PermissionDeniedError,
    RateLimitError,
    ServerError,
    StatusError,
)
from dspex.providers.keys import redact

_EXCERPT_CHARACTERS = 300
_LIMIT_HEADERS = (
    ("x-ratelimit-remaining-requests", "x-ratelimit-reset-requests"),
    ("x-ratelimit-remaining-tokens", "x-ratelimit-reset-tokens"),
    ("anthropic-ratelimit-requests-remaining", "anthropic-ratelimit-requests-reset"),
    ("anthropic-ratelimit-tokens-remaining", "anthropic-ratelimit-tokens-reset"),
)
_UNIT_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}
_DURATION_PART = re.compile(r"([0-9]+(?:\.[0-9]+)?)(ms|s|m|h|d)")
_DURATION = re.compile(rf"(?:{_DURATION_PART.pattern})+")
_CONTEXT_CODES = {"context_length_exceeded", "exceed_context_size_error"}
_QUOTA_CODES = {"insufficient_quota", "billing_hard_limit_reached"}
_BY_STATUS: dict[int, type[StatusError]] = {
    400: BadRequestError,
    401: AuthenticationError,
    403: PermissionDeniedError,
    404: NotFoundError,
    408: ServerError,
    409: ServerError,
    413: BadRequestError,
    422: BadRequestError,
    429: RateLimitError,
}


def status_error(
    status: int,
    headers: Mapping[str, str],
    body: bytes,
    *,
    provider: str,
    model: str,
    key: SecretStr,
) -> StatusError:
    """Give the error that a reply with an error status stands for.

    `headers` has lower-case names.
    """
    message, code = _read_error(body)
    return error_of_status(
        status,
        message or excerpt(body),
        code,
        headers,
        provider=provider,
        model=model,
        key=key,
    )


def error_of_status(
    status: int,
    message: str,
    code: str | None,
    headers: Mapping[str, str],
    *,
    provider: str,
    model: str,
    key: SecretStr,
) -> StatusError:
    """Give the typed error of a status and of what the provider says about it.

    A provider that echoes the key, in whatever it says, does not show it.
    """
    if code in _CONTEXT_CODES:
        kind: type[StatusError] = ContextLengthError
    elif status in _BY_STATUS:
        kind = _BY_STATUS[status]
    else:
        kind = ServerError if status >= 500 else StatusError
    quota_spent = code in _QUOTA_CODES
    return kind(
        redact(message, key) or "the provider gave no reason",
        provider=provider,
        model=model,
        status=status,
        code=None if code is None else redact(code, key),
        request_id=request_id(headers, key),
        retry_after=retry_after(headers),
        retryable=False if quota_spent else None,
        remedy="add credit to the account" if quota_spent else None,
    )


def request_id(headers: Mapping[str, str], key: SecretStr) -> str | None:
    """Give the id under which the provider knows the request."""
    found = headers.get("x-request-id") or headers.get("request-id")
    return redact(found, key) if found else None


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Give the seconds a reply asks to wait: `retry-after-ms`, seconds, or a date."""
    try:
        if (milliseconds := headers.get("retry-after-ms")) is not None:
            return _positive(float(milliseconds) / 1000)
    except ValueError:
        pass
    text = headers.get("retry-after")
    if text is None:
        return None
    try:
        return _positive(float(text))
    except ValueError:
        pass
    try:
        return _positive(parsedate_to_datetime(text).timestamp() - time.time())
    except (ValueError, OverflowError):
        return None


def exhausted_for(headers: Mapping[str, str]) -> float | None:
    """Give the seconds until the provider has requests and tokens to give again.

    None when it has some left, or does not say.
    """
    waits = [
        seconds
        for remaining, reset in _LIMIT_HEADERS
        if headers.get(remaining) == "0"
        and (seconds := _reset_seconds(headers.get(reset, ""))) is not None
    ]
    return max(waits, default=None)


def _reset_seconds(text: str) -> float | None:
    """Read "6m0s", "250ms" or "1.5" (OpenAI), or a date of RFC 3339 (Anthropic)."""
    try:
        return _positive(float(text))
    except ValueError:
        pass
    if _DURATION.fullmatch(text):
        parts = _DURATION_PART.findall(text)
        return _positive(sum(float(n) * _UNIT_SECONDS[unit] for n, unit in parts))
    try:
        return _positive(datetime.fromisoformat(text).timestamp() - time.time())
    except (ValueError, OverflowError):
        return None


def decompressed(body: bytes, encoding: str | None, *, limit: int) -> bytes:
    """Undo a content-encoding (gzip, deflate).

    Raises:
        ValueError: the encoding is another, the body is broken, or over `limit`
            bytes when unpacked.
    """
    if encoding in (None, "", "identity"):
        if len(body) > limit:
            raise ValueError(f"the body is over {limit} bytes")
        return body
    if encoding not in ("gzip", "x-gzip", "deflate"):
        raise ValueError(f"unknown content-encoding {encoding!r}")
    inflate = zlib.decompressobj(zlib.MAX_WBITS | 32)  # 32: gzip or zlib, by itself
    try:
        plain = inflate.decompress(body, limit + 1)
    except zlib.error as error:
        raise ValueError(f"the {encoding} body is broken: {error}") from None
    if len(plain) > limit:
        raise ValueError(f"the body is over {limit} bytes")
    if not inflate.eof:
        raise ValueError(f"the {encoding} body is cut short")
    return plain


def excerpt(body: bytes) -> str:
    """Give the start of a body as one line."""
    text = body[: 4 * _EXCERPT_CHARACTERS].decode("utf-8", errors="replace")
    text = " ".join(text.split())
    if len(text) > _EXCERPT_CHARACTERS:
        text = f"{text[: _EXCERPT_CHARACTERS - 3]}..."
    return text


def _positive(seconds: float) -> float | None:
    # Also drops NaN and infinity, which float() accepts.
    return min(max(seconds, 0.0), 86_400.0) if seconds == seconds else None


def _read_error(body: bytes) -> tuple[str, str | None]:
    """Find message and code in the error bodies that servers really send."""
    try:
        data = msgspec.json.decode(body, type=dict[str, object])
    except (msgspec.DecodeError, UnicodeDecodeError):
        return "", None
    error = data.get("error", data)
    if isinstance(error, str):
        return error, None
    try:
        facts = msgspec.convert(error, dict[str, object])
    except msgspec.ValidationError:
        return "", None
    message = facts.get("message", facts.get("detail", ""))
    code = facts.get("code")
    if not isinstance(code, str):
        code = facts.get("type")
    return (
        message if isinstance(message, str) else "",
        code if isinstance(code, str) else None,
    )
