"""The `dspex` command."""

import os
import signal


def main() -> None:
    """Run the command line."""
    # The imports take a moment in which Ctrl-C would end in a traceback.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda caught, _: os._exit(128 + caught))
    # Here, because `import dspex` should not cost what a command line costs.
    from dspex.worker.cli import app

    app()


if __name__ == "__main__":
    main()
