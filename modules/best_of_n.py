"""BestOfN and Refine: several runs of a module, the best of which is kept."""

from collections.abc import Callable
from typing import Any, TypeAlias

from dspex.modules.call import current_call
from dspex.modules.errors import AdapterParseError, ConfigError
from dspex.modules.module import Module
from dspex.modules.prediction import Prediction
from dspex.modules.signature import Inputs
from dspex.providers.errors import ProviderError

Reward: TypeAlias = Callable[[Inputs, Prediction], float]
Advice: TypeAlias = Callable[[Inputs, Prediction, float], str]


class BestOfN(Module):
    """Runs a module up to `n` times and gives the prediction of the highest reward.

    It stops early at a reward of `threshold` or more. The runs after the first have
    temperature 1.0 and a seed of their own, so that they differ. Runs whose answer
    cannot be read, or whose model call fails, count as runs; if all do, the last error
    is raised. `prediction.reward` and `prediction.runs` tell how it went.

    Raises:
        ConfigError: `n` is less than one.
    """

    def __init__(
        self, module: Module, *, n: int, reward: Reward, threshold: float
    ) -> None:
        if n < 1:
            raise ConfigError("n", n, "must be at least 1")
        self.module = module
        self.n = n
        self.reward = reward
        self.threshold = threshold

    async def forward(self, /, **inputs: Any) -> Prediction:  # Any: as declared
        """Run the module until a prediction is good enough, or `n` times."""
        best: tuple[float, Prediction] | None = None
        failed: Exception | None = None
        runs = 0
        for runs in range(1, self.n + 1):
            module = self.prepare(runs - 1, inputs, best)
            try:
                found = await module.run(inputs)
            except (AdapterParseError, ProviderError) as error:
                failed = error
                continue
            reward = self.reward(inputs, found)
            if best is None or reward > best[0]:
                best = (reward, found)
            if reward >= self.threshold:
                break
        if best is None:
            assert failed is not None
            raise failed
        facts = {**best[1].facts, "reward": best[0], "runs": runs}
        return best[1].replace(facts=facts)

    def prepare(
        self, number: int, inputs: Inputs, best: tuple[float, Prediction] | None
    ) -> Module:
        """Give the module for one run; the first is as it is."""
        if number == 0:
            return self.module
        call = current_call()
        module = self.module.copy()
        for predictor in module.predictors:
            settings: dict[str, object] = {"temperature": 1.0}
            lm = predictor.lm or (None if call is None else call.lm)
            if lm is not None and lm.capabilities.seed:
                settings["seed"] = number
            predictor.settings = {**predictor.settings, **settings}
        return module


class Refine(BestOfN):
    """As BestOfN, and each further run is told what the best one so far lacked.

    `advice` says it, from the inputs, the prediction and its reward; unless given, the
    outputs and their reward are shown. It goes into the instructions of that run only.
    """

    def __init__(
        self,
        module: Module,
        *,
        n: int,
        reward: Reward,
        threshold: float,
        advice: Advice | None = None,
    ) -> None:
        super().__init__(module, n=n, reward=reward, threshold=threshold)
        self.advice = advice or _show_outputs

    def prepare(
        self, number: int, inputs: Inputs, best: tuple[float, Prediction] | None
    ) -> Module:
        """Give the module for one run, with what the best run so far lacked."""
        module = super().prepare(number, inputs, best)
        if best is None or number == 0:
            return module
        text = self.advice(inputs, best[1], best[0])
        for predictor in module.predictors:
            predictor.signature = predictor.signature.append_instructions(text)
        return module


def _show_outputs(inputs: Inputs, prediction: Prediction, reward: float) -> str:
    outputs = "; ".join(
        f"{name}: {value}" for name, value in prediction.outputs.items()
    )
    return f"An earlier answer was not good enough (rated {reward:g}): {outputs}"
