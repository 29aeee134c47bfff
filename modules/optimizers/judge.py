"""lm_judge: a metric that asks a model how good a prediction is."""

from collections.abc import Mapping
from typing import Final

from dspex.modules.adapters.protocol import Adapter
from dspex.modules.optimizers.example import Example
from dspex.modules.optimizers.metrics import Metric, Score
from dspex.modules.predict import Predict
from dspex.modules.prediction import Prediction
from dspex.modules.signature import Signature
from dspex.providers.lm import LM

_BEST: Final = 5
_SIGNATURE: Final = (
    "criteria, inputs: dict[str, str], expected: dict[str, str], "
    "given: dict[str, str] -> feedback, grade: Literal[1, 2, 3, 4, 5]"
)
_INSTRUCTIONS: Final = (
    "Judge by the criteria how good what was given is for these inputs. Say in one "
    "sentence what is right or wrong with it, then grade it from 1 (useless) to 5 "
    "(nothing to improve)."
)


def lm_judge(
    criteria: str, *, lm: LM | None = None, adapter: Adapter | str | None = None
) -> Metric:
    """Give a metric: a model grades the prediction by the criteria, from 0 to 1.

    The model is `lm`, or the one that is evaluated on. It sees the example's inputs,
    its labels and the prediction's outputs; what it says is the score's feedback. Its
    calls count, and are journaled, like those of the program.
    """
    signature = Signature(_SIGNATURE).with_instructions(_INSTRUCTIONS)
    judge = Predict(signature, lm=lm, adapter=adapter, temperature=0)

    async def lm_judge(example: Example, prediction: Prediction) -> Score:
        found = await judge(
            criteria=criteria,
            inputs=_texts(example.inputs()),
            expected=_texts(example.labels()),
            given=_texts(prediction.outputs),
        )
        return Score((found["grade"] - 1) / (_BEST - 1), found["feedback"])

    return lm_judge


def _texts(values: Mapping[str, object]) -> dict[str, str]:
    return {name: str(value) for name, value in values.items()}
