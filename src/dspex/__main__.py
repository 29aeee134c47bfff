"""The `dspex` command."""

import os
import signal
import sys


def main() -> None:
    """Run the command line."""
    # The imports take a moment in which Ctrl-C would end in a traceback.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda caught, _: os._exit(128 + caught))
    # Here, because `import dspex` should not cost what a command line costs.
    from dspex.worker.cli import app

    if sys.argv[1:2] in ([], ["chaos"], ["--help"]):
        # The testing kit, which no other command needs, takes longer than all that.
        from dspex.testing.chaos_cli import chaos_command

        app.command("chaos")(chaos_command)
    app()


if __name__ == "__main__":
    main()
