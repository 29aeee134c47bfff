"""Modules: what a user composes programs from."""

from collections.abc import Mapping
from typing import Any

import trio

from dspex.modules.call import WrapLM, enter_call
from dspex.modules.errors import ForwardResultError
from dspex.modules.prediction import Prediction
from dspex.modules.signature import Inputs
from dspex.providers.lm import LM


class Module:
    """A unit with a `forward`, built from predictors and other modules.

    Sub-modules are found in attributes, lists and dicts. Calling the module runs its
    forward; `run` does the same for inputs that come as a mapping, and can set the
    model that predictors without one of their own use.
    """

    # Any: a subclass declares its own inputs; both checkers let it narrow these.
    async def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Do the work: call predictors, give a Prediction or a dict of outputs."""
        raise NotImplementedError(f"{type(self).__name__} has no forward")

    async def __call__(self, /, **inputs: Any) -> Prediction:  # Any: as declared
        """Run `forward` on the inputs, and count what it took."""
        return await self.run(inputs)

    async def run(
        self, inputs: Inputs, *, lm: LM | None = None, wrap_lm: WrapLM | None = None
    ) -> Prediction:
        """Run `forward` on a mapping of inputs, and count what it took.

        `lm` is the model of every predictor inside that has none of its own; `wrap_lm`
        is put before whatever model is called inside, for journals and limits.

        Raises:
            ForwardResultError: forward gave neither a Prediction nor a mapping.
            Exception: whatever forward raises.
        """
        started = trio.current_time()
        with enter_call(lm=lm, wrap_lm=wrap_lm) as call:
            found: object = await self.forward(**inputs)
            if isinstance(found, Mapping):
                found = Prediction(**found)
            if not isinstance(found, Prediction):
                raise ForwardResultError(type(self).__name__, found)
            return found.replace(
                usage=call.usage,
                seconds=trio.current_time() - started,
                trace_id=call.trace_id,
            )
