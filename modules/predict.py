"""Predict: one model call, from typed inputs to typed outputs."""

from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final, cast

import trio

from dspex.modules.adapters.choice import choose_adapter
from dspex.modules.adapters.protocol import Adapter, Demo
from dspex.modules.call import (
    Answer,
    TraceStep,
    begin_call,
    current_call,
    end_call,
)
from dspex.modules.checks import MAX_RETRIES, Check, first_problem_of
from dspex.modules.errors import (
    AssertionFailedError,
    ConfigError,
    FailedAttempt,
    InputError,
    LMNotConfiguredError,
)
from dspex.modules.exchange import Exchange
from dspex.modules.fields import FieldType
from dspex.modules.module import Predictor
from dspex.modules.prediction import NO_USAGE, Prediction, add_usage
from dspex.modules.replayed import Replayed, can_stream
from dspex.modules.signature import Inputs, SignatureLike, to_signature
from dspex.modules.streaming import FieldDelta, choose_splitter
from dspex.providers.errors import InvalidRequestError
from dspex.providers.lm import LM, Capabilities
from dspex.providers.messages import Message, Request
from dspex.providers.streams import StreamingLM, TextDelta
from dspex.runtime.log import get_logger

log = get_logger()

SETTINGS: Final = (
    "temperature",
    "top_p",
    "max_tokens",
    "stop",
    "seed",
    "n",
    "extra",
)

# Several answers at temperature 0 are one answer several times.
_LOWEST_DIVERSE: Final = 0.15
_DIVERSE: Final = 0.7


class Predict(Predictor):
    """Ask a model for the outputs of a signature, and give them typed.

    `adapter` is an adapter or its name ("chat", "json"); None takes the JSON adapter
    for models that follow a schema, else chat. `demos` are examples, mappings of field
    names to values. `repairs` is how often an answer that cannot be read is shown to
    the model with what is wrong with it. `checks` are functions of the prediction that
    give False, or a text that says what is wrong; such an answer is shown to the model
    too, up to `check_retries` times. Settings (`temperature`, `top_p`,
    `max_tokens`, `stop`, `seed`, `n`, `extra`) go to the model; None leaves them to it.

    With `strict_inputs=False` inputs that are missing, unknown or of the wrong type are
    only logged, as in dspy.

    Raises:
        SignatureError: the signature is none.
        ConfigError: an unknown adapter or setting.
    """

    def __init__(
        self,
        signature: SignatureLike,
        *,
        lm: LM | None = None,
        adapter: Adapter | str | None = None,
        demos: Sequence[Demo] = (),
        repairs: int = 1,
        checks: Sequence[Check] = (),
        check_retries: int = MAX_RETRIES,
        strict_inputs: bool = True,
        custom_types: Mapping[str, FieldType] | None = None,
        **settings: object,
    ) -> None:
        self.signature = to_signature(signature, custom_types=custom_types)
        self.lm = lm
        self.adapter = adapter
        self.demos = tuple(demos)
        self.repairs = repairs
        self.checks = tuple(checks)
        self.check_retries = check_retries
        self.strict_inputs = strict_inputs
        self.settings = check_settings(settings)
        for name, number in (("repairs", repairs), ("check_retries", check_retries)):
            if number < 0:
                raise ConfigError(name, number, "must not be negative")
        if isinstance(adapter, str):
            choose_adapter(adapter, Capabilities())

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.signature!r})"

    async def forward(self, /, **inputs: Any) -> Prediction:  # Any: as declared
        """Ask the model and read its answer.

        Raises:
            InputError: the inputs do not fit the signature.
            LMNotConfiguredError: there is no model.
            AdapterParseError: no answer could be read, repairs included.
            AssertionFailedError: no answer passed the checks, retries included.
            ProviderError: the model could not be called.
        """
        call, token = current_call(), None
        if call is None:
            call, token = begin_call()
        try:
            checked = self._check_inputs(inputs)
            lm = self.lm or call.lm
            if lm is None:
                raise LMNotConfiguredError(repr(self))
            adapter = self._adapter_for(lm)
            request = self._request(lm, adapter, checked)
            memory = call.memory
            key = memory.key((lm.name, request))
            feedback = memory.feedback.get(key, ())
            effect = (key, len(feedback))
            answer = memory.finished.get(effect)
            if isinstance(answer, Answer):
                call.add_usage(answer.prediction.usage, remembered=True)
            else:
                for item in feedback:
                    request = adapter.repair(request, item.choice, item.message)
                exchange = Exchange(call, lm, adapter, self.signature)
                if self.checks:
                    answer = await self._ask_checked(exchange, request)
                else:
                    answer = await exchange.ask(request, repairs=self.repairs)
                memory.finished[effect] = answer
            prediction = answer.prediction
            memory.trace.append(
                TraceStep(self, checked, prediction, key, answer.choice)
            )
            return prediction
        finally:
            if token is not None:
                end_call(token)

    async def stream(
        self,
        *,
        lm: LM | None = None,
        **inputs: Any,  # Any: as declared
    ) -> AsyncGenerator[FieldDelta | Prediction]:
        """Ask the model and give its answer as it comes: deltas, then the prediction.

        The deltas are of the first answer; one that cannot be read is repaired without
        further deltas. A model or adapter that cannot stream gives the prediction only.
        Close the generator where the loop may be left early: that ends the call.

        Raises what `forward` raises.
        """
        model = self.lm or lm
        adapter = None if model is None else self._adapter_for(model)
        splitter = None if adapter is None else choose_splitter(adapter, self.signature)
        if (
            model is None
            or adapter is None
            or splitter is None
            or not can_stream(model)
        ):
            yield await self.run(inputs, lm=lm)
            return
        request = self._request(model, adapter, self._check_inputs(inputs))
        started = trio.current_time()
        async with cast(StreamingLM, model).stream(replace(request, n=1)) as deltas:
            async for delta in deltas:
                if isinstance(delta, TextDelta):
                    for found in splitter.feed(delta.text):
                        yield found
            response = deltas.response
        for found in splitter.finish():
            yield found
        replay = Replayed(model, response)
        prediction = await self._with_lm(replay).run(inputs, lm=replay)
        yield prediction.replace(seconds=trio.current_time() - started)

    def _with_lm(self, lm: LM) -> "Predict":
        copied = self.copy()
        copied.lm = lm
        copied.settings = {n: v for n, v in self.settings.items() if n != "n"}
        return copied

    def _adapter_for(self, lm: LM) -> Adapter:
        return choose_adapter(self.adapter, lm.capabilities, self.signature)

    def _request(self, lm: LM, adapter: Adapter, inputs: Inputs) -> Request:
        request = adapter.format(
            self.signature,
            demos=self.demos,
            inputs=inputs,
            capabilities=lm.capabilities,
        )
        if not self.settings:
            return request
        return replace(request, **request_settings(self.settings))

    async def _ask_checked(self, exchange: Exchange, request: Request) -> Answer:
        """Ask until an answer can be read and passes the checks."""
        usage = NO_USAGE
        rejected: list[FailedAttempt] = []
        while True:
            answer = await exchange.ask(request, repairs=self.repairs)
            usage = add_usage(usage, answer.prediction.usage)
            problem = first_problem_of(self.checks, answer.prediction)
            if problem is None:
                return replace(
                    answer, prediction=answer.prediction.replace(usage=usage)
                )
            rejected.append(FailedAttempt(answer.prediction.outputs, problem))
            if len(rejected) > self.check_retries:
                raise AssertionFailedError(problem, tuple(rejected), repr(self))
            request = exchange.adapter.repair(request, answer.choice, problem)

    def _check_inputs(self, inputs: Inputs) -> Inputs:
        try:
            return self.signature.check_inputs(inputs)
        except InputError as error:
            if self.strict_inputs:
                raise
            log.warning("inputs_unfit", problem=str(error))
            defaults = {
                name: field.get_default()
                for name, field in self.signature.input_fields.items()
                if not field.is_required
            }
            return defaults | dict(inputs)


def check_settings(settings: Mapping[str, object]) -> dict[str, object]:
    """Give the settings that are set.

    Raises:
        ConfigError: one is unknown or has a value no model takes.
    """
    for name, value in settings.items():
        if name not in SETTINGS:
            raise ConfigError(
                name, value, f"is unknown; there are {', '.join(SETTINGS)}"
            )
    found = {name: value for name, value in settings.items() if value is not None}
    try:
        Request((Message.user(""),), **request_settings(found))
    except InvalidRequestError as error:
        raise ConfigError(error.field, error.value, error.problem) from None
    return found


# Any: the names were checked; Request checks the values.
def request_settings(settings: Mapping[str, object]) -> dict[str, Any]:
    """Give the settings as fields of a request."""
    found: dict[str, Any] = dict(settings)  # Any: as above
    stop = found.get("stop")
    if stop is not None:
        found["stop"] = (stop,) if isinstance(stop, str) else tuple(stop)
    several = found.get("n", 1) > 1
    if several and found.get("temperature", 0) <= _LOWEST_DIVERSE:
        found["temperature"] = _DIVERSE
    return found
