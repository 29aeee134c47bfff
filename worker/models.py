"""The model that a command line names."""

import os
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Final

from dspex.providers import LM, Anthropic, OpenAI
from dspex.providers.anthropic import DEFAULT_BASE_URL as ANTHROPIC_URL
from dspex.providers.http_model import DEFAULT_TIMEOUT
from dspex.providers.openai import DEFAULT_BASE_URL as OPENAI_URL
from dspex.runtime import DspexError

EMBEDDED: Final = "embedded"
_KEYS: Final = {"openai": "OPENAI_API_KEY", "anthropic": "ANTHROPIC_API_KEY"}


class UnknownLMError(DspexError):
    """The command line names no model that there is."""


@asynccontextmanager
async def open_lm(
    text: str | None, *, base_url: str | None, timeout: float | None
) -> AsyncGenerator[LM | None]:
    """Give the model of `read_lm` for the length of a block; None for none, too.

    Raises:
        UnknownLMError, ProviderError: as `read_lm`.
    """
    lm = None if text is None else read_lm(text, base_url=base_url, timeout=timeout)
    try:
        yield lm
    finally:
        if isinstance(lm, OpenAI | Anthropic):
            await lm.aclose()


def read_lm(text: str, *, base_url: str | None, timeout: float | None) -> LM | None:
    """Give the model of `--lm`; None is the embedded one.

    Its calls have `timeout` seconds, or those of its client.

    Raises:
        UnknownLMError: there is no such provider.
        ProviderError: there is no key, or the base URL cannot work.
    """
    provider, _, model = text.partition(":")
    if text == EMBEDDED:
        if base_url is not None:
            raise UnknownLMError(
                f"--base-url {base_url} needs the model to ask there for: "
                "--lm openai:MODEL or --lm anthropic:MODEL"
            )
        return None
    if provider not in _KEYS or not model:
        raise UnknownLMError(
            f"--lm {text!r} names no model: use embedded, openai:MODEL or "
            "anthropic:MODEL (with --base-url for another server of that API)"
        )
    seconds = DEFAULT_TIMEOUT if timeout is None else timeout
    # A server of one's own often wants no key.
    key = None if base_url is None else os.environ.get(_KEYS[provider], "")
    if provider == "openai":
        url = OPENAI_URL if base_url is None else base_url
        return OpenAI(model, base_url=url, api_key=key, timeout=seconds)
    url = ANTHROPIC_URL if base_url is None else base_url
    return Anthropic(model, base_url=url, api_key=key, timeout=seconds)
