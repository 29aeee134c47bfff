"""Modules: what a user composes programs from."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Self, cast

import trio

from dspex.modules.adapters.protocol import Demo
from dspex.modules.call import Effects, begin_call, end_call, keep_trace
from dspex.modules.checks import wants_another_pass
from dspex.modules.errors import ForwardResultError
from dspex.modules.exits import refuse_exit
from dspex.modules.plain import is_list, is_object
from dspex.modules.prediction import Prediction
from dspex.modules.signature import Inputs, Signature
from dspex.providers.lm import LM


class Module:
    """A unit with a `forward`, built from predictors and other modules.

    Sub-modules are found in attributes, lists, tuples and dicts. Calling the module
    runs its forward; `run` does the same for inputs that come as a mapping, and can set
    the model that predictors without one of their own use.

    A module whose `compiled` is true is frozen: optimizers and `named_predictors` of a
    module around it pass it by, as in dspy.
    """

    compiled: bool = False

    # Any: a subclass declares its own inputs; both checkers let it narrow these.
    async def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Do the work: call predictors, give a Prediction or a dict of outputs."""
        raise NotImplementedError(f"{type(self).__name__} has no forward")

    async def __call__(
        self,
        /,
        *positional: object,
        **inputs: Any,  # Any: as declared
    ) -> Prediction:
        """Run `forward` on the inputs, and count what it took.

        Raises:
            TypeError: an input was given without its name.
        """
        if positional:
            raise TypeError(
                f"{self!r} takes its inputs by name, as in question='...'; "
                f"without a name came {positional[0]!r}"
            )
        return await self.run(inputs)

    async def run(
        self, inputs: Inputs, *, lm: LM | None = None, effects: Effects | None = None
    ) -> Prediction:
        """Run `forward` on a mapping of inputs, and count what it took.

        `lm` is the model of every predictor inside that has none of its own. Model and
        tool calls inside go through `effects`, for a journal that makes each one once.

        Raises:
            AssertionFailedError: an `ensure` in it did not hold, retries included.
            CodeExitError: forward called sys.exit(), or the like.
            ForwardResultError: forward gave neither a Prediction nor a mapping.
            Exception: whatever forward raises.
        """
        started = trio.current_time()
        call, token = begin_call(lm=lm, effects=effects)
        try:
            while True:
                try:
                    found = await self.forward(**inputs)
                    break
                except BaseException as error:
                    # The outermost forward runs again for as long as a check asks.
                    if call.parent is not None or not wants_another_pass(error):
                        refuse_exit(f"the forward of {type(self).__name__}", error)
                        raise
                call.memory.start_pass()
            if isinstance(found, Mapping):
                found = Prediction(**found)
            if not isinstance(found, Prediction):
                raise ForwardResultError(type(self).__name__, found)
            suggestions = found.suggestions
            if call.parent is None:
                keep_trace(call)
                suggestions = tuple(call.memory.suggestions)
            return found.replace(
                usage=call.usage,
                seconds=trio.current_time() - started,
                trace_id=call.trace_id,
                suggestions=suggestions,
            )
        finally:
            end_call(token)

    async def batch(
        self,
        inputs: Iterable[Inputs],
        *,
        lm: LM | None = None,
        max_concurrency: int = 10,
    ) -> list[Prediction | Exception]:
        """Run many inputs side by side; give predictions and errors in their order.

        An error is that of its item only; the others still run.
        """
        items = list(inputs)
        results: list[Prediction | Exception | None] = [None] * len(items)
        slots = trio.CapacityLimiter(max_concurrency)

        async def run(index: int) -> None:
            async with slots:
                try:
                    results[index] = await self.run(items[index], lm=lm)
                # The edge of an item: its error is a result, like a prediction.
                except Exception as error:  # noqa: BLE001
                    results[index] = error

        async with trio.open_nursery() as nursery:
            for index in range(len(items)):
                nursery.start_soon(run, index)
        return [result for result in results if result is not None]

    def named_predictors(self) -> list[tuple[str, "Predictor"]]:
        """List the predictors by name: `first`, `second.predict`, `steps[0].predict`.

        The names are dspy's; a bare Predict is `self`. One that is reachable twice has
        the first of its names. Lists and dicts in lists and dicts are passed by.
        """
        found: dict[int, tuple[str, Predictor]] = {}
        for name, predictor in _walk(self):
            found.setdefault(id(predictor), (name, predictor))
        return list(found.values())

    @property
    def predictors(self) -> list["Predictor"]:
        """The predictors, in the order of `named_predictors`."""
        return [predictor for _, predictor in self.named_predictors()]

    def copy(self) -> Self:
        """Give a module that can be changed without changing this one.

        Modules, and the lists and dicts that hold them, are copied; signatures,
        demos, models and everything else is shared.
        """
        return cast(Self, _copy(self, {}))

    def reset_copy(self) -> Self:
        """Give a copy whose predictors have no demos."""
        copied = self.copy()
        for predictor in copied.predictors:
            predictor.demos = ()
        return copied


class Predictor(Module):
    """A module that asks a model: what optimizers change and what is saved.

    Its parameters are the instructions in `signature`, the `demos` and the `settings`.
    """

    signature: Signature
    demos: tuple[Demo, ...]
    settings: dict[str, object]
    lm: LM | None


def _walk(module: Module) -> Iterator[tuple[str, Predictor]]:
    if isinstance(module, Predictor):
        yield "self", module
    for name, value in vars(module).items():
        if is_list(value) or isinstance(value, tuple):
            # As in dspy, what is nested deeper is not looked for: a saved program
            # has the same names here and there.
            for index, item in enumerate(cast(list[object], value)):
                yield from _walk_value(f"{name}[{index}]", item)
        elif is_object(value):
            for key, item in value.items():
                yield from _walk_value(f"{name}['{key}']", item)
        else:
            yield from _walk_value(name, value)


def _walk_value(name: str, value: object) -> Iterator[tuple[str, Predictor]]:
    if isinstance(value, Predictor):
        yield name, value
    elif isinstance(value, Module) and not value.compiled:
        for inner, predictor in _walk(value):
            yield f"{name}.{inner}", predictor


def _copy(value: object, done: dict[int, object]) -> object:
    """Copy modules and the containers that hold them; share what is below."""
    if id(value) in done:
        return done[id(value)]
    if isinstance(value, Module):
        copied = object.__new__(type(value))
        done[id(value)] = copied
        for name, item in vars(value).items():
            object.__setattr__(copied, name, _copy(item, done))
        return copied
    if is_list(value):
        items: list[object] = []
        done[id(value)] = items
        items.extend(_copy(item, done) for item in value)
        return items
    if type(value) is tuple:
        return tuple(_copy(item, done) for item in cast(tuple[object, ...], value))
    if is_object(value) and type(value) is dict:
        found: dict[str, object] = {}
        done[id(value)] = found
        found.update({key: _copy(item, done) for key, item in value.items()})
        return found
    return value
