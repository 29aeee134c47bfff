"""The command line: dspex worker, dspex top."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from dspex.runtime import DspexError
from dspex.worker.execute import Debug, execute
from dspex.worker.logs import LEVELS, complain, configure_logs
from dspex.worker.run_command import NOTHING_DONE
from dspex.worker.top_command import watch_worker


def worker_command(
    app_name: Annotated[
        str | None,
        typer.Option(
            "--app", help="Needed: module:attribute, or a directory of programs."
        ),
    ] = None,
    config: Annotated[
        Path | None, typer.Option(help="A TOML file of settings.")
    ] = None,
    host: Annotated[str | None, typer.Option(help="Where to listen.")] = None,
    port: Annotated[int | None, typer.Option(help="0 takes a free one.")] = None,
    lm: Annotated[
        str | None,
        typer.Option(help="The model: embedded, openai:MODEL or anthropic:MODEL."),
    ] = None,
    base_url: Annotated[
        str | None, typer.Option(help="Another server that speaks OpenAI's API.")
    ] = None,
    timeout: Annotated[
        float | None,
        typer.Option(
            help="Seconds for a model call, retries included: 60, 120 if embedded."
        ),
    ] = None,
    max_runs: Annotated[
        int | None, typer.Option(help="Unfinished runs before clients must wait.")
    ] = None,
    max_running: Annotated[
        int | None, typer.Option(help="With a store: runs executed at a time.")
    ] = None,
    store: Annotated[
        str | None,
        typer.Option(help="Keep runs: a SQLite file, or postgresql://..."),
    ] = None,
    resume: Annotated[
        bool | None,
        typer.Option(help="With a store: execute what others accepted or left."),
    ] = None,
    drain_timeout: Annotated[
        float | None, typer.Option(help="Seconds to finish runs after SIGTERM.")
    ] = None,
    log_level: Annotated[
        str | None, typer.Option(help=f"Logs on stderr: {', '.join(LEVELS)}.")
    ] = None,
    print_config: Annotated[
        bool, typer.Option("--print-config", help="Print the settings and end.")
    ] = False,
) -> None:
    """Serve programs over HTTP until SIGTERM.

    Every setting is also an environment variable (DSPEX_PORT, DSPEX_TOKEN, ...) and
    a key of the TOML file; flags go first, then the environment, then the file.

    Exit status: 0 every accepted run finished, 1 runs were left, 2 could not start,
    3 the supervision tree gave up.
    """
    # Here, because no other command needs the extra `worker`.
    try:
        from dspex.worker.otel import OtelError, open_otel
        from dspex.worker.serve import NOT_STARTED, run_worker
        from dspex.worker.settings import read_settings
    except ModuleNotFoundError as error:
        print(  # noqa: T201
            f"dspex: no module {error.name!r}: pip install 'dspex[worker]'",
            file=sys.stderr,
        )
        raise typer.Exit(NOTHING_DONE) from None
    flags = {
        "app": app_name,
        "host": host,
        "port": port,
        "lm": lm,
        "base_url": base_url,
        "timeout": timeout,
        "max_runs": max_runs,
        "max_running": max_running,
        "store": store,
        "resume": resume,
        "drain_timeout": drain_timeout,
        "log_level": log_level,
    }
    try:
        settings = read_settings(flags, file=config)
    except DspexError as error:
        print(f"dspex: {error}", file=sys.stderr)  # noqa: T201
        raise typer.Exit(NOT_STARTED) from None
    if print_config:
        print(settings.to_toml())  # noqa: T201
        return
    configure_logs(settings.log_level)
    try:
        with open_otel():
            status = run_worker(settings)
    except OtelError as error:
        complain(str(error))
        status = NOT_STARTED
    raise typer.Exit(status)


def top_command(
    url: Annotated[
        str, typer.Option(help="Where the worker listens.")
    ] = "http://127.0.0.1:8600",
    token: Annotated[
        str | None, typer.Option(envvar="DSPEX_TOKEN", help="The worker's token.")
    ] = None,
    every: Annotated[float, typer.Option(min=0.2, help="Seconds between looks.")] = 1.0,
    once: Annotated[bool, typer.Option("--once", help="Show it and end.")] = False,
    debug: Debug = False,
) -> None:
    """Show the supervision tree of a running worker."""
    execute(
        lambda: watch_worker(url, token=token, every=every, once=once),
        debug=debug,
        log_level="critical",
    )
