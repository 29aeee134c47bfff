"""`python -m dspex.testing.dspy_cases PATH... [--deviations FILE] [--verbose]`.

Runs files of cases made by dspy and ends with `dspy: N passed, M deviated, K failed`.
The exit status is 0 when none failed, 1 when some did, 2 for a bad file.
"""

import argparse
import logging
import sys
from collections import Counter
from collections.abc import Sequence

import structlog

from dspex.testing.dspy_cases.errors import CaseFileError
from dspex.testing.dspy_cases.runner import load_deviations, run_files


def main(argv: Sequence[str] | None = None) -> int:
    """Run the files named on the command line."""
    parser = argparse.ArgumentParser(prog="dspy_cases", description=__doc__)
    parser.add_argument("paths", nargs="+", metavar="PATH", help="a file or a folder")
    parser.add_argument("--deviations", metavar="FILE", help="{id or tag: reason}")
    parser.add_argument(
        "--verbose", action="store_true", help="list the deviations too"
    )
    arguments = parser.parse_args(argv)
    # Cases are full of answers that cannot be read; that is no news here.
    quiet = structlog.make_filtering_bound_logger(logging.CRITICAL)
    structlog.configure(wrapper_class=quiet)
    try:
        deviations = load_deviations(arguments.deviations)
        verdicts = run_files(arguments.paths, deviations)
    except CaseFileError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    for verdict in verdicts:
        if verdict.status == "failed" or (
            arguments.verbose and verdict.status == "deviated"
        ):
            sys.stdout.write(f"{verdict.status} {verdict.case_id}: {verdict.reason}\n")
    count = Counter(verdict.status for verdict in verdicts)
    sys.stdout.write(
        f"dspy: {count['passed']} passed, {count['deviated']} deviated, "
        f"{count['failed']} failed\n"
    )
    return 1 if count["failed"] else 0


if __name__ == "__main__":
    sys.exit(main())
