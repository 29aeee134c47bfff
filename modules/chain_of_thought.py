"""ChainOfThought: the model reasons before it answers, in one call."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from dspex.modules.adapters.protocol import Adapter, Demo
from dspex.modules.errors import ConfigError
from dspex.modules.fields import Field, FieldType, OutputField
from dspex.modules.module import Module
from dspex.modules.predict import Predict
from dspex.modules.prediction import Outputs, Prediction
from dspex.modules.signature import Signature, SignatureLike, to_signature
from dspex.modules.steps import StepValidator
from dspex.providers.lm import LM

REASONING = "reasoning"


class SignatureEnhancer:
    """Adds the output `reasoning` before the others: the model writes it first."""

    def __init__(
        self, field: Field | None = None, type_: FieldType | None = None
    ) -> None:
        self.field: Field = field or OutputField(desc="${reasoning}")
        self.type_: FieldType = type_ or self.field.annotation

    def enhance(self, signature: Signature) -> Signature:
        """Give the signature with its reasoning; the instructions stay as they are."""
        return signature.prepend(REASONING, self.field, self.type_)


class ChainOfThought(Module):
    """Predict with a `reasoning` before the outputs: one model call gives both.

    `prediction.reasoning` is the text, `prediction.steps` its steps. With `samples`
    over 1 that many answers are asked for, and the outputs most of them agree on are
    given; `prediction.agreement` is their share. A `step_validator` has the model try
    again where the reasoning has too few steps. Takes the options of Predict.

    Raises:
        SignatureError: the signature is none.
        ConfigError: an unknown adapter or setting, or fewer than one sample.
    """

    def __init__(
        self,
        signature: SignatureLike,
        *,
        lm: LM | None = None,
        adapter: Adapter | str | None = None,
        demos: Sequence[Demo] = (),
        repairs: int = 1,
        strict_inputs: bool = True,
        custom_types: Mapping[str, FieldType] | None = None,
        reasoning: Field | None = None,
        samples: int = 1,
        step_validator: StepValidator | None = None,
        **settings: Any,  # Any: Predict checks them
    ) -> None:
        if samples < 1:
            raise ConfigError("samples", samples, "must be at least 1")
        if samples > 1:
            settings["n"] = samples
        self.step_validator = step_validator or StepValidator()
        self.predict = Predict(
            SignatureEnhancer(reasoning).enhance(
                to_signature(signature, custom_types=custom_types)
            ),
            lm=lm,
            adapter=adapter,
            demos=demos,
            repairs=repairs,
            strict_inputs=strict_inputs,
            checks=() if step_validator is None else (self._check_steps,),
            **settings,
        )

    @property
    def signature(self) -> Signature:
        """What it takes and gives, the reasoning included."""
        return self.predict.signature

    def _check_steps(self, prediction: Prediction) -> str | None:
        reasoning: object = prediction[REASONING]
        if not isinstance(reasoning, str):
            return None
        return self.step_validator.problem(reasoning)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.predict.signature!r})"

    async def forward(self, /, **inputs: Any) -> Prediction:  # Any: as declared
        """Ask the model; raises what Predict raises."""
        prediction = await self.predict(**inputs)
        winner, agreement = vote(prediction.completions)
        reasoning = winner.get(REASONING)
        steps = (
            self.step_validator.steps(reasoning) if isinstance(reasoning, str) else ()
        )
        completions = [winner, *(c for c in prediction.completions if c is not winner)]
        return Prediction.of(
            completions,
            model=prediction.model,
            attempts=prediction.attempts,
            notes=prediction.notes,
            suggestions=prediction.suggestions,
            facts={"steps": steps, "agreement": agreement},
        )


def vote(completions: Sequence[Outputs]) -> tuple[Outputs, float]:
    """Give the first completion whose outputs most agree on, and their share.

    The reasoning has no vote; texts agree when they differ in case and spaces only.
    """
    keys = [_ballot(completion) for completion in completions]
    best, votes = Counter(keys).most_common(1)[0]
    return completions[keys.index(best)], votes / len(keys)


def _ballot(completion: Outputs) -> str:
    return repr(
        [
            " ".join(value.lower().split()) if isinstance(value, str) else value
            for name, value in completion.items()
            if name != REASONING
        ]
    )
