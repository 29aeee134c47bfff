"""Which adapter a predictor uses: the one named, or the best the model can do."""

from collections.abc import Mapping
from typing import Final

from dspex.modules.adapters.chat import ChatAdapter
from dspex.modules.adapters.json import JSONAdapter
from dspex.modules.adapters.protocol import Adapter
from dspex.modules.errors import ConfigError
from dspex.providers.lm import Capabilities

# Adapters keep only what they computed of signatures, so one of each will do.
_ADAPTERS: Final[Mapping[str, Adapter]] = {
    "chat": ChatAdapter(),
    "json": JSONAdapter(),
}


def choose_adapter(
    adapter: Adapter | str | None, capabilities: Capabilities | None
) -> Adapter:
    """Give the adapter itself, the one of that name, or what suits the model.

    Raises:
        ConfigError: no adapter has this name.
    """
    if adapter is None:
        follows_schema = capabilities is not None and capabilities.json_schema
        return _ADAPTERS["json" if follows_schema else "chat"]
    if not isinstance(adapter, str):
        return adapter
    if adapter not in _ADAPTERS:
        names = ", ".join(_ADAPTERS)
        raise ConfigError("adapter", adapter, f"is unknown; there are {names}")
    return _ADAPTERS[adapter]
