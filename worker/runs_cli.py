"""The command line: dspex runs list, show, resume, cancel, export, prune."""

from typing import Annotated

import typer

from dspex.worker.execute import Debug, LogLevel, PoolMax, execute
from dspex.worker.open_runtime import POOL
from dspex.worker.resume_command import ResumeOptions, resume_runs
from dspex.worker.runs_command import (
    cancel_run,
    export_runs,
    list_runs,
    prune_runs,
    show_run,
)

runs_app = typer.Typer(
    help="Look at the runs of a store, and finish those that a death interrupted.",
    no_args_is_help=True,
)

StoreOption = Annotated[
    str,
    typer.Option(
        envvar="DSPEX_STORE", help="A SQLite file, or postgresql://USER@HOST/DATABASE."
    ),
]
RunId = Annotated[str, typer.Argument(help="A run's id, or the beginning of it.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, one object a line.")]


@runs_app.command("list")
def list_command(
    store: StoreOption,
    state: Annotated[
        list[str] | None,
        typer.Option(help="pending, running, succeeded, failed or cancelled."),
    ] = None,
    program: Annotated[str | None, typer.Option(help="Of this program.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="At most so many.")] = 100,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """List runs, the newest first."""
    states = tuple(state or ())
    execute(
        lambda: list_runs(
            store, states=states, program=program, limit=limit, as_json=as_json
        ),
        debug=debug,
        log_level="critical",
    )


@runs_app.command("show")
def show_command(
    run: RunId, store: StoreOption, as_json: AsJson = False, debug: Debug = False
) -> None:
    """Show a run: its inputs, its outputs, and when each step and call took place."""
    execute(
        lambda: show_run(store, run, as_json=as_json), debug=debug, log_level="critical"
    )


@runs_app.command("resume")
def resume_command(
    store: StoreOption,
    lm: Annotated[
        str, typer.Option(help="The model: embedded, openai:MODEL or anthropic:MODEL.")
    ] = "embedded",
    base_url: Annotated[
        str | None, typer.Option(help="Another server that speaks OpenAI's API.")
    ] = None,
    concurrency: Annotated[
        int, typer.Option(min=1, max=1000, help="How many runs at a time.")
    ] = 4,
    timeout: Annotated[
        float | None,
        typer.Option(
            min=0.1,
            help="Seconds for a model call, retries included: 60, 120 if embedded.",
        ),
    ] = None,
    pool_max: PoolMax = POOL.max_size,
    as_json: AsJson = False,
    log_level: LogLevel = "error",
    debug: Debug = False,
) -> None:
    """Finish every unfinished run; finished model calls are not made again.

    Exit status: as of `dspex run`.
    """
    options = ResumeOptions(
        store=store,
        lm=lm,
        base_url=base_url,
        concurrency=concurrency,
        timeout=timeout,
        pool_max=pool_max,
        as_json=as_json,
    )
    execute(lambda: resume_runs(options), debug=debug, log_level=log_level)


@runs_app.command("cancel")
def cancel_command(run: RunId, store: StoreOption, debug: Debug = False) -> None:
    """Cancel a run; the process that executes it stops it."""
    execute(lambda: cancel_run(store, run), debug=debug, log_level="critical")


@runs_app.command("export")
def export_command(
    store: StoreOption,
    run: Annotated[
        list[str] | None, typer.Argument(help="Ids; without any, every run.")
    ] = None,
    debug: Debug = False,
) -> None:
    """Print runs with their effects and events as JSON, one run a line."""
    runs = tuple(run or ())
    execute(lambda: export_runs(store, runs), debug=debug, log_level="critical")


@runs_app.command("prune")
def prune_command(
    store: StoreOption,
    older_than: Annotated[str, typer.Option(help="An age: 90s, 15m, 12h or 30d.")],
    debug: Debug = False,
) -> None:
    """Forget finished runs that ended longer ago than that."""
    execute(lambda: prune_runs(store, older_than), debug=debug, log_level="critical")
