"""The command line: dspex chaos."""

import sys
import tempfile
from pathlib import Path
from typing import Annotated

import typer

from dspex.runtime import DspexError
from dspex.testing.fault_plan import FaultPlan
from dspex.worker.execute import Debug, execute

PASSED = 0
BROKEN = 1
NOT_RUN = 2


def chaos_command(
    app_name: Annotated[
        str,
        typer.Option("--app", help="module:attribute, or a directory of programs."),
    ],
    plan: Annotated[Path, typer.Option(help="A fault plan: a YAML file.")],
    minutes: Annotated[float, typer.Option(min=0.01, help="How long.")] = 5.0,
    settle: Annotated[
        float,
        typer.Option(min=1.0, help="Seconds to finish what was accepted, undisturbed."),
    ] = 120.0,
    inputs: Annotated[
        Path | None,
        typer.Option(
            help='JSON lines {"program": NAME, "inputs": {...}}; made by the schemas '
            "of the programs where left out."
        ),
    ] = None,
    clients: Annotated[
        int, typer.Option(min=1, max=1000, help="Runs that are waited for at a time.")
    ] = 8,
    report: Annotated[
        Path, typer.Option(help="Where the report goes, with a .txt beside it.")
    ] = Path("chaos.json"),
    lm: Annotated[
        str | None, typer.Option(help="The model: embedded, or openai:MODEL.")
    ] = None,
    base_url: Annotated[
        str | None, typer.Option(help="Another server that speaks OpenAI's API.")
    ] = None,
    store: Annotated[
        str | None, typer.Option(help="A store to use; else one that is removed.")
    ] = None,
    debug: Debug = False,
) -> None:
    """Run a worker under load while a fault plan is carried out, and report.

    Exit status: 0 every invariant held, 1 one is broken, 2 it could not be run.
    """
    # Here, because they need the extra `worker`.
    try:
        from dspex.testing.chaos import ChaosOptions, read_rows, torment
        from dspex.worker.settings import read_settings
    except ModuleNotFoundError as error:
        print(  # noqa: T201
            f"dspex: no module {error.name!r}: pip install 'dspex[worker]'",
            file=sys.stderr,
        )
        raise typer.Exit(NOT_RUN) from None

    async def main() -> int:
        with tempfile.TemporaryDirectory(prefix="dspex-chaos-") as folder:
            flags = {
                "app": app_name,
                "lm": lm,
                "base_url": base_url,
                "store": store or str(Path(folder) / "store.db"),
                "drain_timeout": 10.0,
            }
            try:
                report.open("a").close()  # before minutes have gone into it
            except OSError as error:
                raise ReportError(report, error) from error
            token = read_settings(flags).token
            options = ChaosOptions(
                settings={
                    it: value for it, value in flags.items() if value is not None
                },
                plan=FaultPlan.load(plan),
                seconds=minutes * 60,
                settle_seconds=settle,
                clients=clients,
                rows=() if inputs is None else read_rows(inputs),
                token=None if token is None else token.get_secret_value(),
                folder=Path(folder),
            )
            found = await torment(options)
            print(found)  # noqa: T201
            try:
                found.write(report)
            except OSError as error:
                raise ReportError(report, error) from error
            return BROKEN if found.breaches else PASSED

    execute(main, debug=debug, log_level="error")


class ReportError(DspexError):
    """The report cannot be written where it should go."""

    def __init__(self, path: Path, error: OSError) -> None:
        super().__init__(f"--report {path}: cannot write: {error.strerror}")
        self.path = path
