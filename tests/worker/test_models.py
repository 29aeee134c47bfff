import pytest

from dspex.providers import Anthropic, MissingKeyError, OpenAI
from dspex.testing import open_fake_provider
from dspex.worker.models import UnknownLMError, read_lm


@pytest.mark.parametrize(
    ("text", "path"),
    [("openai:fake", "/v1/chat/completions"), ("anthropic:fake", "/v1/messages")],
)
async def test_the_command_line_names_a_model_of_either_api(
    text: str, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.delenv("ANTHROPIC_API_KEY", raising=False)
    async with open_fake_provider() as server:
        lm = read_lm(text, base_url=server.url, timeout=5)
        assert isinstance(lm, OpenAI | Anthropic)
        async with lm:
            assert (await lm.complete("x")).text == "ok"
    assert lm.name == text
    assert server.requests[0].path == path


def test_the_embedded_model_is_none_of_them() -> None:
    assert read_lm("embedded", base_url=None, timeout=5) is None


@pytest.mark.parametrize("text", ["", "anthropic", "anthropic:", "x:y", "gpt-4o"])
def test_a_model_that_is_none_is_told(text: str) -> None:
    with pytest.raises(UnknownLMError, match="anthropic:MODEL"):
        read_lm(text, base_url=None, timeout=5)


@pytest.mark.parametrize("value", [None, "", " \n"])
@pytest.mark.parametrize("provider", ["openai", "anthropic"])
def test_a_key_that_is_missing_or_empty_is_named(
    provider: str, value: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    variable = f"{provider.upper()}_API_KEY"
    monkeypatch.delenv(variable, raising=False)
    if value is not None:
        monkeypatch.setenv(variable, value)
    problem = f"set {variable}$" if value is None else f"{variable} is empty"
    with pytest.raises(MissingKeyError, match=problem):
        read_lm(f"{provider}:m", base_url=None, timeout=5)
