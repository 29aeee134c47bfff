"""What `dspex eval` and `dspex compile` work on: a program, a metric, data, a model."""

import importlib
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, cast

from dspex.modules.hosted import HostedBackend
from dspex.modules.module import Module
from dspex.modules.native import NativeBackend
from dspex.modules.optimizers import (
    Example,
    Metric,
    ProgramModule,
    lm_judge,
)
from dspex.modules.optimizers.dspy_metrics import BY_FIELD
from dspex.modules.saved_state import dump_dspy_state
from dspex.providers import LM, Budget, Embedded, Price, read_prices
from dspex.runtime import DspexError
from dspex.runtime.engine import Program
from dspex.worker.app import Runtime
from dspex.worker.programs_command import find_version
from dspex.worker.runs_command import open_journal

_FILES: Final = (".yaml", ".yml", ".json")


class BadOptionError(DspexError):
    """An option of `dspex eval` or `dspex compile` cannot be used."""


@dataclass(frozen=True, slots=True)
class Subject:
    """A program that is evaluated: as data, or as code (`program` is None)."""

    name: str
    module: Module
    program: Program | None
    inputs: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()

    @property
    def identity(self) -> Mapping[str, Any]:  # Any: JSON
        """Give what decides about the program's answers, as plain JSON."""
        if self.program is not None:
            return {"program": self.program.digest}
        state = dump_dspy_state(self.module)
        return {"module": self.name, "state": state}


async def load_program(text: str, *, store: str | None) -> Program | None:
    """Read the program file, or the version of the store; None for code.

    Raises:
        ProgramError: it is not a program.
        BadOptionError: it is a version, and there is no store.
        DspexError: the store has no such version.
    """
    if Path(text).suffix in _FILES:
        return Program.load(text)
    if ":" in text:
        return None
    if store is None:
        raise BadOptionError(
            f"PROGRAM {text!r} is a version in a store: give --store, a program file "
            "(.yaml, .json), or package.module:attribute"
        )
    async with open_journal(store) as journal:
        return Program.model_validate((await find_version(journal, text)).body)


def read_subject(text: str, program: Program | None, runtime: Runtime) -> Subject:
    """Give the program of a file, or the module that `package.module:attribute` is.

    Raises:
        ProgramError: it cannot be run as written.
        BadOptionError: there is no such code, or it is no module.
    """
    if program is not None:
        native, hosted = runtime.backend("native"), runtime.backend("python")
        assert isinstance(native, NativeBackend)
        assert isinstance(hosted, HostedBackend)
        module = ProgramModule(program, native=native, hosted=hosted)
        return Subject(
            program.name, module, program, module.input_names, module.output_names
        )
    found = import_attribute("PROGRAM", text)
    if not isinstance(found, Module) and callable(found):
        found = cast("object", found())
    if not isinstance(found, Module):
        raise BadOptionError(
            f"PROGRAM {text!r} is a {type(found).__name__}: give a Module, or a "
            "function that makes one"
        )
    return Subject(text.partition(":")[2], found, None)


def read_metric(text: str) -> Metric:
    """Give the metric that a text names: `exact_match:FIELD`, `judge:CRITERIA`, code.

    Raises:
        BadOptionError: there is no such metric.
    """
    name, _, rest = text.partition(":")
    if name in BY_FIELD and rest:
        return BY_FIELD[name](rest)
    if name == "judge" and rest:
        return lm_judge(rest)
    if not rest:
        raise BadOptionError(
            f"--metric {text!r} is none: give {', '.join(BY_FIELD)} with :FIELD, "
            "judge:CRITERIA, or package.module:function"
        )
    found = import_attribute("--metric", text)
    if not callable(found):
        raise BadOptionError(f"--metric {text!r} is a {type(found).__name__}")
    return found


def check_metric_field(
    text: str, subject: Subject, examples: Sequence[Example]
) -> None:
    """See that a metric's FIELD is one, before a model is paid for it.

    Raises:
        BadOptionError: the program does not give it, or an example does not have it.
    """
    name, _, field = text.partition(":")
    if name not in BY_FIELD:
        return
    if subject.outputs and field not in subject.outputs:
        given = ", ".join(subject.outputs)
        raise BadOptionError(
            f"--metric {text!r}: program {subject.name!r} has no output {field!r}; "
            f"it has {given}"
        )
    for number, example in enumerate(examples, start=1):
        if field not in example:
            raise BadOptionError(
                f"--metric {text!r}: example {number} has no field {field!r}"
            )


def import_attribute(option: str, text: str) -> object:
    """Import `package.module:attribute`.

    Raises:
        BadOptionError: it is not there.
    """
    name, _, attribute = text.partition(":")
    # The installed command does not look there by itself.
    if (here := str(Path.cwd())) not in sys.path:
        sys.path.insert(0, here)
    try:
        return cast("object", getattr(importlib.import_module(name), attribute))
    except ModuleNotFoundError as error:
        problem = f"there is no module {error.name!r}"
    except (AttributeError, ValueError):
        problem = f"module {name!r} has no {attribute!r}"
    others = f"{', '.join(BY_FIELD)} with :FIELD, judge:CRITERIA"
    if option == "PROGRAM":
        others = "a program file"
    raise BadOptionError(
        f"{option} {text!r}: {problem}; give {others} or package.module:attribute"
    )


def model_of(runtime: Runtime) -> LM:
    """Give the model that was given to the runtime, or the embedded one."""
    assert runtime.lm is not None
    return runtime.lm


def make_budget(lm: LM, limit_usd: float | None, price: str | None) -> Budget:
    """Give the budget that counts what the model costs.

    Raises:
        BadOptionError: the cost is limited, and nobody knows the model's price.
    """
    prices = {**read_prices()}
    if isinstance(lm, Embedded):
        prices[lm.name] = Price(0, 0, 0)
    if price is not None:
        prices[lm.name] = _read_price(price)
    if limit_usd is not None and lm.name not in prices:
        raise BadOptionError(
            f"--budget-usd needs the price of {lm.name}: give --price INPUT,OUTPUT "
            "in dollars for a million tokens"
        )
    return Budget(cost=limit_usd, prices=prices)


def _read_price(text: str) -> Price:
    try:
        given, out = (float(part) for part in text.split(","))
    except ValueError:
        raise BadOptionError(
            f"--price {text!r} is not like 0.15,0.60: dollars for a million tokens of "
            "input and of output"
        ) from None
    return Price(given, out, given)
