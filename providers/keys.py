"""API keys: read once, never shown."""

import os
from collections.abc import Mapping
from typing import Final

from pydantic import SecretStr

from dspex.providers.errors import ConfigurationError, MissingKeyError

# Replacing every "x" would make an error unreadable, and hide nothing.
_SHORTEST_SECRET: Final = 8


def read_key(
    given: SecretStr | str | None, *, variable: str, provider: str
) -> SecretStr:
    """Give the key that was passed or, when none was, that of the environment.

    An empty key that was passed means that the server wants none; an empty variable is
    a mistake of who set it.

    Raises:
        MissingKeyError: neither is there.
        ConfigurationError: it holds a character that no header may carry.
    """
    if given is None:
        given = os.environ.get(variable)
        if given is None or not given.strip():
            which = "" if given is None else f", and {variable} is empty"
            raise MissingKeyError(
                f"no API key was given{which}",
                provider=provider,
                remedy=f"pass api_key=, or set {variable}",
            )
    text = given if isinstance(given, str) else given.get_secret_value()
    text = text.strip()
    if not (text.isascii() and text.isprintable()):
        raise ConfigurationError(
            "the API key holds characters that an HTTP header cannot carry",
            provider=provider,
            remedy="copy the key again",
        )
    return SecretStr(text)


def redact(text: str, key: SecretStr) -> str:
    """Give a text without the key."""
    secret = _secret(key)
    return text.replace(secret, "[api key]") if secret else text


def redact_headers(headers: Mapping[str, str], key: SecretStr) -> dict[str, str]:
    """Give headers without the key, in case a server echoes it."""
    return {redact(name, key): redact(value, key) for name, value in headers.items()}


class SecretHeaders(tuple[tuple[bytes, bytes], ...]):
    """HTTP headers with a key in them, which they do not show."""

    __slots__ = ()

    def __repr__(self) -> str:
        return f"<{len(self)} headers>"


def redact_bytes(body: bytes, key: SecretStr) -> bytes:
    """Give a body without the key, in case a server echoes it."""
    secret = _secret(key).encode()
    return body.replace(secret, b"[api key]") if secret else body


def _secret(key: SecretStr) -> str:
    """Give the key; "" for one as short as those made up for servers without keys."""
    text = key.get_secret_value()
    return text if len(text) >= _SHORTEST_SECRET else ""
