"""The `dspex` command."""


def main() -> None:
    """Run the command line."""
    # Here, because `import dspex` should not cost what a command line costs.
    from dspex.worker.cli import app

    app()


if __name__ == "__main__":
    main()
