"""The command line: dspex programs list, show, diff, export, import, rollback."""

from pathlib import Path
from typing import Annotated

import typer

from dspex.worker.execute import Debug, execute
from dspex.worker.programs_command import (
    diff_programs,
    export_program,
    import_program,
    list_programs,
    print_schema,
    rollback_program,
    show_program,
)
from dspex.worker.runs_cli import AsJson, StoreOption

programs_app = typer.Typer(
    help="Look at programs and at their versions in a store.", no_args_is_help=True
)

Version = Annotated[str, typer.Argument(help="NAME, or NAME@NUMBER.")]


@programs_app.command("list")
def list_command(
    store: StoreOption, as_json: AsJson = False, debug: Debug = False
) -> None:
    """List every version of every program."""
    execute(
        lambda: list_programs(store, as_json=as_json), debug=debug, log_level="critical"
    )


@programs_app.command("show")
def show_command(
    program: Annotated[str, typer.Argument(help="A file, or NAME@NUMBER of a store.")],
    store: Annotated[
        str | None, typer.Option(envvar="DSPEX_STORE", help="A store.")
    ] = None,
    debug: Debug = False,
) -> None:
    """Draw a program's graph: inputs, steps in order with their backends, outputs."""
    execute(
        lambda: show_program(program, store=store), debug=debug, log_level="critical"
    )


@programs_app.command("diff")
def diff_command(
    left: Version, right: Version, store: StoreOption, debug: Debug = False
) -> None:
    """Show how two versions differ; exit status 1 when they do."""
    execute(
        lambda: diff_programs(store, left, right), debug=debug, log_level="critical"
    )


@programs_app.command("export")
def export_command(program: Version, store: StoreOption, debug: Debug = False) -> None:
    """Print a version as JSON."""
    execute(lambda: export_program(store, program), debug=debug, log_level="critical")


@programs_app.command("import")
def import_command(
    program: Annotated[Path, typer.Argument(help="A YAML or JSON file.")],
    store: StoreOption,
    made_by: Annotated[str, typer.Option(help="Who or what made it.")] = "import",
    debug: Debug = False,
) -> None:
    """Keep a program of a file as a version."""
    execute(
        lambda: import_program(store, program, made_by=made_by),
        debug=debug,
        log_level="critical",
    )


@programs_app.command("rollback")
def rollback_command(
    program: Version, store: StoreOption, debug: Debug = False
) -> None:
    """Make an old version the newest again, as a version of its own."""
    execute(lambda: rollback_program(store, program), debug=debug, log_level="critical")


@programs_app.command("schema")
def schema_command() -> None:
    """Print the JSON Schema of program files, for an editor."""
    print_schema()
