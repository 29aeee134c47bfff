"""The command line: dspex eval, dspex compile."""

import json
from pathlib import Path
from typing import Annotated, Any, cast

import typer

from dspex.worker.compile_command import compile_program
from dspex.worker.compile_job import OPTIMIZERS, CompileOptions
from dspex.worker.eval_command import EvalOptions, WorkOptions, evaluate_program
from dspex.worker.execute import Debug, LogLevel, PoolMax, execute
from dspex.worker.open_runtime import POOL

Program = Annotated[
    str,
    typer.Argument(
        help="A program file, NAME@NUMBER of the store, or package.module:attribute: "
        "a Module."
    ),
]
Metric = Annotated[
    str,
    typer.Option(
        help="exact_match:FIELD, answer_in_text:FIELD, f1:FIELD, numeric:FIELD, "
        "judge:CRITERIA, or package.module:function."
    ),
]
Inputs = Annotated[
    str,
    typer.Option(
        help="The fields that are inputs: a,b. A program file says so itself."
    ),
]
Model = Annotated[
    str, typer.Option(help="The model: embedded, openai:MODEL, anthropic:MODEL.")
]
BaseUrl = Annotated[
    str | None, typer.Option(help="Another server that speaks the API of the model.")
]
Concurrency = Annotated[
    int, typer.Option(min=1, max=1000, help="How many examples at a time.")
]
Timeout = Annotated[
    float, typer.Option(min=0.1, max=86_400, help="Seconds for an example.")
]
BudgetUsd = Annotated[
    float | None,
    typer.Option(min=0, help="End when the calls have cost so many dollars."),
]
PriceOption = Annotated[
    str | None,
    typer.Option(
        "--price", help="Dollars for a million tokens: INPUT,OUTPUT (0.15,0.60)."
    ),
]
Store = Annotated[
    str | None,
    typer.Option(
        envvar="DSPEX_STORE",
        help="Keep every finished call in this SQLite file or postgresql://..., so "
        "that the same command goes on where a death ended it.",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())


def _read_settings(option: str, text: str) -> dict[str, Any]:  # Any: JSON
    try:
        found: object = json.loads(text)
    except ValueError as error:
        raise typer.BadParameter(f"is no JSON: {error}", param_hint=option) from None
    if not isinstance(found, dict):
        raise typer.BadParameter(
            'is no JSON object: give it like {"auto": "light"}', param_hint=option
        )
    return cast("dict[str, Any]", found)


def eval_command(
    program: Program,
    devset: Annotated[Path, typer.Option(help="Examples: a .jsonl or .csv file.")],
    metric: Metric,
    inputs: Inputs = "",
    lm: Model = "embedded",
    base_url: BaseUrl = None,
    concurrency: Concurrency = 4,
    timeout: Timeout = 120.0,
    pool_max: PoolMax = POOL.max_size,
    budget_usd: BudgetUsd = None,
    price: PriceOption = None,
    store: Store = None,
    out: Annotated[
        Path | None, typer.Option(help="Write each outcome to this .jsonl or .csv.")
    ] = None,
    worst: Annotated[
        int, typer.Option(min=0, help="How many of the worst examples to show.")
    ] = 5,
    as_json: AsJson = False,
    log_level: LogLevel = "error",
    debug: Debug = False,
) -> None:
    """Score a program on examples, with its 95 % interval and the worst of them.

    Exit status: 0 all examples were scored, 1 some failed or the budget ended it,
    2 none was scored.
    """
    work = WorkOptions(
        program=program,
        metric=metric,
        inputs=_names(inputs),
        lm=lm,
        base_url=base_url,
        concurrency=concurrency,
        timeout=timeout,
        pool_max=pool_max,
        max_errors=0,
        budget_usd=budget_usd,
        price=price,
        store=store,
        as_json=as_json,
    )
    options = EvalOptions(work, devset, out, worst)
    execute(lambda: evaluate_program(options), debug=debug, log_level=log_level)


def compile_command(
    program: Program,
    trainset: Annotated[Path, typer.Option(help="Examples: a .jsonl or .csv file.")],
    metric: Metric,
    optimizer: Annotated[
        str,
        typer.Option(
            help=f"{', '.join(OPTIMIZERS)}, or one of dspy's: dspy.MIPROv2, "
            "dspy.GEPA, dspy.COPRO, ..."
        ),
    ] = "bootstrap",
    valset: Annotated[
        Path | None,
        typer.Option(
            help="What random-search (else half of --trainset) and dspy's optimizers "
            "choose on."
        ),
    ] = None,
    devset: Annotated[
        Path | None,
        typer.Option(help="Score before and after on these; nothing is chosen by it."),
    ] = None,
    inputs: Inputs = "",
    lm: Model = "embedded",
    teacher_lm: Annotated[
        str | None, typer.Option(help="Another model to bootstrap with: openai:MODEL.")
    ] = None,
    base_url: BaseUrl = None,
    max_bootstrapped_demos: Annotated[int, typer.Option(min=0)] = 4,
    max_labeled_demos: Annotated[int, typer.Option(min=0)] = 16,
    max_rounds: Annotated[
        int, typer.Option(min=1, help="Tries of an example, at temperature 1.")
    ] = 1,
    threshold: Annotated[
        float | None, typer.Option(help="The score a demo needs; else any but 0.")
    ] = None,
    candidates: Annotated[
        int, typer.Option(min=0, help="Shuffled candidates of random-search.")
    ] = 8,
    settings: Annotated[
        str, typer.Option(help="Settings that make an optimizer of dspy, as JSON.")
    ] = "{}",
    compile_settings: Annotated[
        str, typer.Option(help="Settings for its compile, as JSON.")
    ] = "{}",
    compile_timeout: Annotated[
        float | None,
        typer.Option(
            min=1, help="Seconds for an optimizer of dspy, 14400 unless told."
        ),
    ] = None,
    max_errors: Annotated[
        int, typer.Option(min=1, help="Failed tries that end it.")
    ] = 10,
    concurrency: Concurrency = 4,
    timeout: Timeout = 120.0,
    pool_max: PoolMax = POOL.max_size,
    budget_usd: BudgetUsd = None,
    price: PriceOption = None,
    store: Store = None,
    save: Annotated[
        Path | None, typer.Option(help="Write the compiled program to this file.")
    ] = None,
    as_json: AsJson = False,
    log_level: LogLevel = "error",
    debug: Debug = False,
) -> None:
    """Give a program demos that raise its score; keep it as a new version.

    Exit status: 0 done, 1 the budget ended it (what was found is kept), 2 it could not
    be done.
    """
    work = WorkOptions(
        program=program,
        metric=metric,
        inputs=_names(inputs),
        lm=lm,
        base_url=base_url,
        concurrency=concurrency,
        timeout=timeout,
        pool_max=pool_max,
        max_errors=max_errors,
        budget_usd=budget_usd,
        price=price,
        store=store,
        as_json=as_json,
    )
    options = CompileOptions(
        work=work,
        optimizer=optimizer,
        trainset=trainset,
        valset=valset,
        devset=devset,
        teacher_lm=teacher_lm,
        max_bootstrapped_demos=max_bootstrapped_demos,
        max_labeled_demos=max_labeled_demos,
        max_rounds=max_rounds,
        threshold=threshold,
        candidates=candidates,
        settings=_read_settings("--settings", settings),
        compile_settings=_read_settings("--compile-settings", compile_settings),
        compile_timeout=compile_timeout,
        save=save,
    )
    execute(lambda: compile_program(options), debug=debug, log_level=log_level)
