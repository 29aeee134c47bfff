"""Which adapter a predictor uses: the one named, or the best the model can do."""

from collections.abc import Mapping
from typing import Final

from dspex.modules.adapters.chat import ChatAdapter
from dspex.modules.adapters.json import JSONAdapter
from dspex.modules.adapters.protocol import Adapter
from dspex.modules.adapters.tools import ToolsAdapter, calls_field
from dspex.modules.adapters.xml import XMLAdapter
from dspex.modules.errors import ConfigError
from dspex.modules.signature import Signature
from dspex.providers.lm import Capabilities

# Adapters keep only what they computed of signatures, so one of each will do.
_ADAPTERS: Final[Mapping[str, Adapter]] = {
    "chat": ChatAdapter(),
    "json": JSONAdapter(),
    "tools": ToolsAdapter(),
    "xml": XMLAdapter(),
}


def choose_adapter(
    adapter: Adapter | str | None,
    capabilities: Capabilities,
    signature: Signature | None = None,
) -> Adapter:
    """Give the adapter itself, the one of that name, or what suits the model.

    What suits: the provider's tools for a signature of tool calls, else its JSON
    schema, else its tools, else chat.

    Raises:
        ConfigError: no adapter has this name.
    """
    if adapter is None:
        calls_tools = signature is not None and calls_field(signature) is not None
        if capabilities.tools and (calls_tools or not capabilities.json_schema):
            return _ADAPTERS["tools"]
        return _ADAPTERS["json" if capabilities.json_schema else "chat"]
    if isinstance(adapter, ToolsAdapter):
        return adapter.for_model(capabilities)
    if not isinstance(adapter, str):
        return adapter
    if adapter not in _ADAPTERS:
        names = ", ".join(_ADAPTERS)
        raise ConfigError("adapter", adapter, f"is unknown; there are {names}")
    return choose_adapter(_ADAPTERS[adapter], capabilities)
