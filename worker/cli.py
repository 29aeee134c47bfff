"""The command line: dspex run, eval, compile, demo, doctor, worker."""

import sys
from importlib import metadata
from pathlib import Path
from typing import Annotated

import typer

from dspex.worker.demo import run_demo
from dspex.worker.doctor import run_doctor
from dspex.worker.execute import Debug, LogLevel, PoolMax, execute
from dspex.worker.open_runtime import POOL
from dspex.worker.optimize_cli import compile_command, eval_command
from dspex.worker.programs_cli import programs_app
from dspex.worker.run_command import RunOptions, run_program
from dspex.worker.runs_cli import runs_app
from dspex.worker.worker_cli import top_command, worker_command

app = typer.Typer(
    help="Run LLM programs as supervised actors.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def _show_version(is_asked: bool) -> None:
    if is_asked:
        print(f"dspex {metadata.version('dspex')}")  # noqa: T201
        raise typer.Exit


@app.callback()
def main(
    version: Annotated[
        bool,
        typer.Option(
            "--version", is_eager=True, callback=_show_version, help="Print it and end."
        ),
    ] = False,
) -> None:
    """Run LLM programs as supervised actors."""
    # Tools, metrics and apps are imported from where the command is given, as by
    # `python -m`.
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)


app.add_typer(runs_app, name="runs")
app.add_typer(programs_app, name="programs")


@app.command()
def run(
    program: Annotated[Path, typer.Argument(help="A program: a YAML or JSON file.")],
    pairs: Annotated[
        list[str] | None,
        typer.Option(
            "--input",
            "-i",
            help="An input: NAME=VALUE; with --inputs for lines without it.",
        ),
    ] = None,
    inputs: Annotated[
        Path | None,
        typer.Option(help="A JSONL file: one run for each line, an object of inputs."),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object for each run.")
    ] = False,
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
            max=86_400,
            help="Seconds for a model call, retries included: 60, 120 if embedded.",
        ),
    ] = None,
    pool_max: PoolMax = POOL.max_size,
    store: Annotated[
        str | None,
        typer.Option(
            help="Keep runs in this SQLite file or postgresql://..., so that "
            "`dspex runs resume` finishes what a death interrupts."
        ),
    ] = None,
    log_level: LogLevel = "error",
    debug: Debug = False,
) -> None:
    """Run a program on one input or on many.

    Exit status: 0 all runs succeeded, 1 some failed, 2 none did or nothing could be
    run, 130 after Ctrl-C, 143 after SIGTERM.
    """
    options = RunOptions(
        program=program,
        pairs=tuple(pairs or ()),
        inputs_file=inputs,
        as_json=as_json,
        lm=lm,
        base_url=base_url,
        concurrency=concurrency,
        timeout=timeout,
        pool_max=pool_max,
        store=store,
    )
    execute(lambda: run_program(options), debug=debug, log_level=log_level)


@app.command()
def demo(
    log_level: LogLevel = "critical",
    debug: Debug = False,
) -> None:
    """Answer ten support tickets on the embedded model, then again under fire."""
    execute(run_demo, debug=debug, log_level=log_level)


@app.command()
def doctor(
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object for each finding.")
    ] = False,
    debug: Debug = False,
) -> None:
    """Tell what is installed, what works, and what to do about what does not."""
    execute(lambda: run_doctor(as_json=as_json), debug=debug, log_level="critical")


app.command("eval")(eval_command)
app.command("compile")(compile_command)
app.command("worker")(worker_command)
app.command("top")(top_command)
